#!/usr/bin/env bash
# Which gamma? The question of the published gamma tables, on data that anyone has: the teacher has a big set (512
# synthetic-things scenes), the student a small one (24 synthetic-drive scenes). Three seeds each.
#
#   bash experiments/scene_flow/synthetic.sh                                    # one run after another
#   LIST=1 bash experiments/scene_flow/synthetic.sh | python sweep.py --jobs 2  # two at a time
#   python experiments/make_tables.py scene_flow/synthetic
source "$(dirname "$0")/synthetic_setting.sh"

score teacher-on-things "$RUNS/teacher/best.pt" "${THINGS[@]}"
baselines -on-things "${THINGS[@]}"
baselines "" "${DRIVE[@]}"
for seed in $SEEDS; do
  for gamma in 1 0.7 0.5 0.3 0.1 0; do
    student half "output:$gamma" "$seed" "${STUDENT[@]}"
  done
done
