# The setting of the published tables: FlyingThings3D (quarter set) and KITTI in full, 8192 points, batch 8. The learning
# rate is 1e-3, halved every 80 epochs (teachers) or 150 (students). KITTI is split 100/42 by us: no split is published.
# DATA is the folder that holds both processed sets; each may have its own.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

DATA=${DATA:-data}
FT3D_ROOT=${FT3D_ROOT:-$DATA}
KITTI_ROOT=${KITTI_ROOT:-$DATA}
POINTS=${POINTS:-8192}
BATCH=${BATCH:-8}
SEEDS=${SEEDS:-0}
WORKERS=${WORKERS:-4}
EPOCHS=${EPOCHS:-560}
LONG_EPOCHS=${LONG_EPOCHS:-1200} # students on KITTI that learn from the FlyingThings3D teacher
RUNS=${RUNS:-runs/published}
RESULTS=${RESULTS:-results/scene_flow/published}

FT3D=(--dataset ft3d --data-root "$FT3D_ROOT" --num-points "$POINTS")
KITTI=(--dataset kitti --data-root "$KITTI_ROOT" --num-points "$POINTS")
TEACHER=(--batch-size "$BATCH" --epochs "$EPOCHS" --lr-step 80 --workers "$WORKERS" --seed 0)
STUDENT=(--batch-size "$BATCH" --lr-step 150 --workers "$WORKERS")
SCORE=("${KITTI[@]}")

teacher_ft3d() { WAIT=1 run teacher-ft3d python train_teacher.py "${FT3D[@]}" "${TEACHER[@]}"; }
teacher_kitti() { WAIT=1 run teacher-kitti python train_teacher.py "${KITTI[@]}" "${TEACHER[@]}"; }
