#!/bin/bash
# Create, an array of parts, and finish, each after the one before; prints the number of the last job.
#
#   examples/slurm/pipeline.sh 16 tile-predict slide.zarr --model run/ -o mask.zarr
#
# Options for the array (--gres=gpu:1 --time=04:00:00 --array-limit …) go into SBATCH_OPTIONS. If a part fails, the last job is
# cancelled: `unetcli tile-predict … --finish` then says which ones to run again.
set -euo pipefail
n=${1:?usage: pipeline.sh N tile-predict ARGUMENTS...}; shift
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p logs  # SLURM does not make it, and a job without its output fails before its first line
read -ra options <<< "${SBATCH_OPTIONS:-}"
small=(--parsable --output=logs/%x-%j.out --time=01:00:00 --mem=8G)

script() { printf '#!/bin/bash\nexec srun unetcli'; printf ' %q' "$@"; printf '\n'; }

create=$(script "$@" --create | sbatch "${small[@]}" --job-name=create)
array=$(sbatch --parsable "--array=0-$((n - 1))" "--dependency=afterok:$create" --kill-on-invalid-dep=yes \
    ${options[@]+"${options[@]}"} "$here/array.sbatch" "$n" "$@")
script "$@" --finish | sbatch "${small[@]}" --job-name=finish "--dependency=afterok:$array" --kill-on-invalid-dep=yes
