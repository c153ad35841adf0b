#!/usr/bin/env bash
# How small may a student be? Every width of the student, from scratch (gamma 0) and distilled (gamma 0.3), in the
# setting of synthetic.sh. Three seeds each.
#
#   bash experiments/scene_flow/pareto.sh
#   python experiments/make_tables.py scene_flow/pareto --plots FOLDER
source "$(dirname "$0")/synthetic_setting.sh"

for seed in $SEEDS; do
  for size in half half-all quarter tiny; do
    for gamma in 0 0.3; do
      student "$size" "output:$gamma" "$seed" "${STUDENT[@]}"
    done
  done
done
