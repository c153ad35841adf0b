#!/usr/bin/env bash
# The first published gamma table: a teacher trained on KITTI, students on KITTI, 560 epochs each, scored on KITTI.
#
#   DATA=folder bash experiments/scene_flow/kitti_teacher.sh
#   python experiments/make_tables.py scene_flow/kitti_teacher
source "$(dirname "$0")/published_setting.sh"

GROUP=kitti-from-kitti
teacher_kitti
stage
for seed in $SEEDS; do
  for gamma in 1 0.7 0.5 0.3 0.1 0; do
    student half "output:$gamma" "$seed" --teacher "$RUNS/teacher-kitti/best.pt" "${KITTI[@]}" "${STUDENT[@]}" \
      --epochs "$EPOCHS"
  done
done
