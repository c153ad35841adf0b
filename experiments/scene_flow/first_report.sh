#!/usr/bin/env bash
# The published table of single networks: the teacher and the student on their own, and students that learn from each of
# them with gamma 0.7. Our reading, where nothing is published: the first two are trained on
# FlyingThings3D, the other two on KITTI, 560 epochs each; all are scored on KITTI.
#
#   DATA=folder bash experiments/scene_flow/first_report.sh
#   python experiments/make_tables.py scene_flow/first_report
source "$(dirname "$0")/published_setting.sh"

teacher_ft3d
for seed in $SEEDS; do
  WAIT=1 GROUP=ft3d-scratch student half output:0 "$seed" "${FT3D[@]}" "${STUDENT[@]}" --epochs "$EPOCHS"
done
stage
for seed in $SEEDS; do
  GROUP=kitti-learned-from-teacher student half output:0.7 "$seed" --teacher "$RUNS/teacher-ft3d/best.pt" \
    "${KITTI[@]}" "${STUDENT[@]}" --epochs "$EPOCHS"
  GROUP=kitti-learned-from-student student half output:0.7 "$seed" \
    --teacher "$RUNS/student-ft3d-scratch-half-output0-seed$seed/best.pt" \
    "${KITTI[@]}" "${STUDENT[@]}" --epochs "$EPOCHS"
done
