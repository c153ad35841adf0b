#!/usr/bin/env bash
# The second published gamma table: a teacher trained on FlyingThings3D (560 epochs), students on KITTI (1200 epochs),
# scored on KITTI.
#
#   DATA=folder bash experiments/scene_flow/ft3d_teacher.sh
#   python experiments/make_tables.py scene_flow/ft3d_teacher
source "$(dirname "$0")/published_setting.sh"

GROUP=kitti-from-ft3d
teacher_ft3d
stage
for seed in $SEEDS; do
  for gamma in 1 0.7 0.5 0.3 0.1 0; do
    student half "output:$gamma" "$seed" --teacher "$RUNS/teacher-ft3d/best.pt" "${KITTI[@]}" "${STUDENT[@]}" \
      --epochs "$LONG_EPOCHS"
  done
done
