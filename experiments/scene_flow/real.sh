#!/usr/bin/env bash
# The small set is real: the teacher of synthetic.sh (it has seen synthetic-things only), students on the 24
# FlyingThings3D training pairs of DATA (22 train, 2 choose the checkpoint), scored on the 6 held-out ones. Few pairs
# and few points: not the published protocol. Three seeds each.
#
#   DATA=folder-with-FlyingThings3D_subset_processed_35m bash experiments/scene_flow/real.sh
#   python experiments/make_tables.py scene_flow/real
source "$(dirname "$0")/synthetic_setting.sh"

DATA=${DATA:-../shared/data}
REAL_STEPS=${REAL_STEPS:-180}
teacher=$RUNS/teacher/best.pt
RUNS=${REAL_RUNS:-runs/real}
RESULTS=${REAL_RESULTS:-results/scene_flow/real}

FT3D=(--dataset ft3d --subset full --data-root "$DATA" --num-points "$POINTS")
SCORE=("${FT3D[@]}")

score teacher-on-ft3d "$teacher" "${FT3D[@]}"
baselines "" "${FT3D[@]}"
for seed in $SEEDS; do
  for gamma in 0.3 1 0; do
    # Epochs of 22 / 4 = 5.5 steps: 132 steps at 1e-3, 48 at 2e-4.
    student half "output:$gamma" "$seed" --teacher "$teacher" "${FT3D[@]}" --batch-size "$BATCH" \
      --steps "$REAL_STEPS" --lr-step 24 --lr-gamma 0.2 --eval-every 11 --workers 0
  done
done
