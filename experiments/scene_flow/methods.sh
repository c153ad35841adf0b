#!/usr/bin/env bash
# What each method of the toolbox adds to plain output distillation (gamma 0.3), in the setting of synthetic.sh; the two
# methods that need no teacher, alone; and pairs. Three seeds each.
#
# The weights make a term 10 to 30 % of the loss at 512 points. L_KD and L_GT sum over points, the other terms are means:
# with N points take N / 512 times these weights.
#
#   bash experiments/scene_flow/methods.sh
#   python experiments/make_tables.py scene_flow/methods
source "$(dirname "$0")/synthetic_setting.sh"

PAIRS=${PAIRS:-output:0.3,multiscale:8,rkd:2 output:0.3,multiscale:8,pointdistiller:2}

for seed in $SEEDS; do
  for methods in \
    output:0 \
    output:0.3 \
    output:0.3,hint:3 \
    output:0.3,multiscale:8 \
    output:0.3,pkd:0.5 \
    output:0.3,semckd:30 \
    output:0.3,rkd:2 \
    output:0.3,pointdistiller:2 \
    output:0.3,self:1 \
    self:1 \
    online \
    $PAIRS; do
    student half "$methods" "$seed" "${STUDENT[@]}"
  done
done
