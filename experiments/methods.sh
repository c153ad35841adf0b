#!/usr/bin/env bash
# What each method of the toolbox adds to plain output distillation (gamma 0.3), in the setting of synthetic.sh; the two
# methods that need no teacher, alone; and pairs. Three seeds each.
#
#   bash experiments/methods.sh
#   python experiments/make_tables.py methods
source "$(dirname "$0")/synthetic_setting.sh"

PAIRS=${PAIRS:-output:0.3,multiscale:0.5,rkd:1 output:0.3,pkd:6,pointdistiller:1}

for seed in $SEEDS; do
  for methods in \
    output:0 \
    output:0.3 \
    output:0.3,hint:1 \
    output:0.3,multiscale:0.5 \
    output:0.3,pkd:6 \
    output:0.3,semckd:50 \
    output:0.3,rkd:1 \
    output:0.3,pointdistiller:1 \
    output:0.3,self:1 \
    self:1 \
    online \
    $PAIRS; do
    student half "$methods" "$seed" "${STUDENT[@]}"
  done
done
