#!/bin/bash
# All experiments of fashion_ar.md, fashion_mlm.md and fashion_finetune.md, one after another; many hours on two cores.
# Start it again after an interruption: runs that are complete are skipped, and an interrupted run resumes.
#
#     experiments/fashion/run_all.sh [FOLDER]    (default: outputs/fashion)
set -euo pipefail
out=${1:-outputs/fashion}
mkdir -p "$out"

# train NAME ARGUMENTS: a training run in $out/NAME, which is complete when it has a summary.json
train() {
    local run=$out/$1
    shift
    if [ -e "$run/summary.json" ]; then return; fi
    if [ -e "$run/checkpoints/last.ckpt" ]; then
        igpt-train run="$run"
    else
        igpt-train "$@" logger=csv hydra.run.dir="$run"
    fi
    [ -e "$run/summary.json" ] # a run that was stopped by a signal is incomplete, although its command succeeds
}

# probe NAME ARGUMENTS: the probes of the run $out/NAME
probe() {
    local run=$out/$1
    shift
    if [ -e "$run/probe/summary.json" ]; then return; fi
    igpt-probe run="$run" logger=none "$@"
}

# probe_copy NAME SUFFIX ARGUMENTS: other probes of the run $out/NAME, in a copy of it, where they replace no results
probe_copy() {
    local copy=$1-$2
    if [ ! -e "$out/$copy" ]; then
        cp -r "$out/$1" "$out/$copy.part"
        rm -rf "$out/$copy.part/probe"
        mv "$out/$copy.part" "$out/$copy"
    fi
    shift 2
    probe "$copy" untrained=false "$@"
}

# 1. Autoregressive and masked models; probes of every layer, and few labels; three seeds.
few="labels_per_class=[4,10,25,100,400] subsets=10"
for seed in 0 1 2; do
    for task in ar mlm; do
        train $task-seed$seed experiment=fashion_$task seed=$seed
        probe $task-seed$seed $few
    done
done

# Attention pooling, averages over regions, weaker penalties, and masked inputs.
probe_copy ar-seed1 attentive probe.solver=stream probe.attentive=true probe.epochs=4
probe_copy ar-seed1 regions probe.regions=2
probe_copy ar-seed1 weak "probe.penalties=[1e-8,1e-7,1e-6,1e-5]"
probe_copy mlm-seed1 masks masks=3

# 2. Size, resolution and lossless gray levels; accuracy of the probes during training.
train ar-xs experiment=fashion_ar model=xs trainer.max_steps=8000
probe ar-xs
train ar-28 experiment=fashion_ar data.source.resolution=28 trainer.max_steps=4000 data.batch_size=16
probe ar-28
train ar-gray experiment=fashion_ar tokenizer=gray
probe ar-gray
train ar-curve experiment=fashion_ar callbacks=online_probe trainer.max_steps=8000 \
    callbacks.online_probe.n_train=20000 callbacks.online_probe.n_validation=6000 callbacks.online_probe.penalty=0.001

# 3. Fine-tuning: joint and plain, from both models and from scratch.
for seed in 0 1 2; do
    for weight in 1 0; do
        for task in ar mlm; do
            train finetune-$task-joint$weight-seed$seed experiment=fashion_finetune seed=$seed \
                init_from="$out/$task-seed$seed" objective.generative_weight=$weight
        done
        train scratch-joint$weight-seed$seed experiment=fashion_finetune seed=$seed objective.task=ar \
            objective.generative_weight=$weight
    done
done
