# The setting of synthetic.sh, methods.sh and pareto.sh: a big set (synthetic-things) for the teacher, a small one
# (a few synthetic-drive scenes) for the students. Runs of the same name are the same run, whichever script makes it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

POINTS=${POINTS:-512}
BATCH=${BATCH:-4}
SEEDS=${SEEDS:-0 1 2}
TEACHER_SCENES=${TEACHER_SCENES:-512}
TEACHER_STEPS=${TEACHER_STEPS:-4000}
TEACHER_LR_STEP=${TEACHER_LR_STEP:-24} # epochs of 512 / 4 = 128 steps
TEACHER_EVAL_EVERY=${TEACHER_EVAL_EVERY:-5}
SCENES=${SCENES:-24}
STUDENT_STEPS=${STUDENT_STEPS:-180}
STUDENT_LR_STEP=${STUDENT_LR_STEP:-22} # epochs of 24 / 4 = 6 steps: 132 steps at 1e-3, 48 at 2e-4
STUDENT_EVAL_EVERY=${STUDENT_EVAL_EVERY:-10}
RUNS=${RUNS:-runs/synthetic}
RESULTS=${RESULTS:-results/scene_flow/synthetic}

THINGS=(--dataset synthetic-things --num-points "$POINTS")
DRIVE=(--dataset synthetic-drive --num-points "$POINTS")
SCORE=("${DRIVE[@]}")

WAIT=1 run teacher python train_teacher.py "${THINGS[@]}" --num-scenes "$TEACHER_SCENES" --batch-size "$BATCH" \
  --steps "$TEACHER_STEPS" --lr-step "$TEACHER_LR_STEP" --lr-gamma 0.2 --eval-every "$TEACHER_EVAL_EVERY" \
  --save-every 500 --workers 1 --seed 0
stage

# The students' scenes fit into the cache of the main process: readers of their own would make them anew.
STUDENT=(--teacher "$RUNS/teacher/best.pt" "${DRIVE[@]}" --num-scenes "$SCENES" --batch-size "$BATCH"
         --steps "$STUDENT_STEPS" --lr-step "$STUDENT_LR_STEP" --lr-gamma 0.2 --eval-every "$STUDENT_EVAL_EVERY"
         --workers 0)
