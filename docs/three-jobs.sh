#!/bin/sh -e
# Submits three jobs, follows them, samples each and collects CSVs. Arguments go to `driftctl train`.
for lr in 0.002 0.004 0.008; do
    ids="$ids $(driftctl train "${RECIPE:-digits}" --name "lr-$lr" --set optim.lr=$lr "$@")"
done
for id in $ids; do
    driftctl follow "$id"
    checkpoint=$(driftctl checkpoints --job "$id" --limit 1 | awk 'NR == 2 { print $1 }')
    driftctl sample --checkpoint "$checkpoint" --n 16 --seed 1 -o "job-$id.png"
    driftctl metrics "$id" --csv -o "job-$id.csv"
done
