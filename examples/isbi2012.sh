#!/usr/bin/env bash
# Membranes in electron microscopy (ISBI 2012): learn from slices 0-21, segment slices 22 and 23, compare.
#
#   examples/isbi2012.sh DATA OUT [options of train, such as --preset paper --device cuda]
#
# DATA holds train_image_NN.png and train_label_NN.png (membrane 0, cell 255). About 20 minutes on two CPU cores.
# Called again after an interruption it goes on where it stopped.
set -euo pipefail
data=${1:?usage: isbi2012.sh DATA OUT [train options]} out=${2:?usage: isbi2012.sh DATA OUT [train options]}
shift 2
[ "$#" -gt 0 ] || set -- --preset fast
mkdir -p "$out"

unetcli prep "$data"/train_image_{0[0-9],1[0-9],2[01]}.png --labels "$data"/train_label_{0[0-9],1[0-9],2[01]}.png \
    --label-kind classes --pixel-size 4nm -o "$out/train.zarr"
unetcli weights "$out/train.zarr" --balance none --w0 5 --sigma 3 -o "$out/weights.zarr"
unetcli augment "$out/train.zarr" --weights "$out/weights.zarr" -n 6 -o "$out/augmented.zarr" --preview "$out/augmented.png"
unetcli train "$out/train.zarr" --weights "$out/weights.zarr" -o "$out/run" "$@"
unetcli prep "$data"/train_image_2[23].png --pixel-size 4nm -o "$out/new.zarr"
unetcli tile-predict "$out/new.zarr" --model "$out/run" -o "$out/mask.zarr" --probabilities "$out/p.zarr" --tta d4 --verify-seams
mkdir -p "$out/truth"
cp "$data"/train_label_2[23].png "$out/truth/"
unetcli evaluate "$out/p.zarr" "$out/truth" --images "$out/new.zarr" -o "$out/report"
