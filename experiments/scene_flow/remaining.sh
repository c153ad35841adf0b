#!/usr/bin/env bash
# The three combinations that the reports leave open, all with students on FlyingThings3D: from the KITTI teacher, from
# the FlyingThings3D teacher (gamma 0.3, the reports' best with that teacher), and from scratch. Scored on
# FlyingThings3D and, as the reports' tables are, on KITTI.
#
#   DATA=folder bash experiments/remaining.sh
#   python experiments/make_tables.py remaining
source "$(dirname "$0")/published_setting.sh"

teacher_kitti
teacher_ft3d
stage
for seed in $SEEDS; do
  for teacher in kitti ft3d; do
    GROUP=ft3d-from-$teacher student half output:0.3 "$seed" --teacher "$RUNS/teacher-$teacher/best.pt" \
      "${FT3D[@]}" "${STUDENT[@]}" --epochs "$EPOCHS"
  done
  GROUP=ft3d-scratch student half output:0 "$seed" "${FT3D[@]}" "${STUDENT[@]}" --epochs "$EPOCHS"
done
stage
for seed in $SEEDS; do
  for run in ft3d-from-kitti-half-output0.3 ft3d-from-ft3d-half-output0.3 ft3d-scratch-half-output0; do
    score "on-ft3d-$run-seed$seed" "$RUNS/student-$run-seed$seed/best.pt" "${FT3D[@]}"
  done
done
