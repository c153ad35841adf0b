#!/usr/bin/env bash
# Three combinations without published figures, all with students on FlyingThings3D: from the KITTI teacher, from the
# FlyingThings3D teacher, and from scratch. Gamma is 0.3, the best published one with the FlyingThings3D teacher. Scored on
# FlyingThings3D and, as the published tables are, on KITTI.
#
#   DATA=folder bash experiments/scene_flow/remaining.sh
#   python experiments/make_tables.py scene_flow/remaining
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
