#!/usr/bin/env bash
# Are 180 steps too few to tell students apart? The questions of synthetic.sh (GROUP drive) and real.sh (GROUP ft3d)
# once more, with 1200 steps for a student. Teacher, points and everything else as there. Three seeds each. Or are 24
# scenes too few? The first question with as many steps on five times the scenes (GROUP drive120).
#
#   DATA=folder-with-FlyingThings3D_subset_processed_35m bash experiments/scene_flow/longer.sh
#   python experiments/make_tables.py scene_flow/longer
STUDENT_STEPS=${LONG_STEPS:-1200}
STUDENT_LR_STEP=${LONG_LR_STEP:-150} # epochs of 24 / 4 = 6 steps: 900 steps at 1e-3, 300 at 2e-4
STUDENT_EVAL_EVERY=${LONG_EVAL_EVERY:-20}
source "$(dirname "$0")/synthetic_setting.sh"

DATA=${DATA:-../shared/data}
teacher=$RUNS/teacher/best.pt
RUNS=${LONG_RUNS:-runs/longer}
RESULTS=${LONG_RESULTS:-results/scene_flow/longer}

MORE=120 # scenes: epochs of 30 steps, 990 steps at 1e-3
FT3D=(--dataset ft3d --subset full --data-root "$DATA" --num-points "$POINTS")
for seed in $SEEDS; do
  for gamma in 0 1 0.3; do
    SCORE=("${DRIVE[@]}")
    GROUP=drive student half "output:$gamma" "$seed" "${STUDENT[@]}"
    # Epochs of 22 / 4 = 5.5 steps: the rate falls after about as many steps.
    SCORE=("${FT3D[@]}")
    GROUP=ft3d student half "output:$gamma" "$seed" --teacher "$teacher" "${FT3D[@]}" --batch-size "$BATCH" \
      --steps "$STUDENT_STEPS" --lr-step 164 --lr-gamma 0.2 --eval-every 22 --workers 0
  done
  SCORE=("${DRIVE[@]}")
  for gamma in 0 1; do
    GROUP=drive$MORE student half "output:$gamma" "$seed" --teacher "$teacher" "${DRIVE[@]}" --num-scenes "$MORE" \
      --batch-size "$BATCH" --steps "$STUDENT_STEPS" --lr-step 33 --lr-gamma 0.2 --eval-every 5 --workers 0
  done
done
