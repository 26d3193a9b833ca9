#!/usr/bin/env bash
# Everything that wants a GPU, in the order in which it matters; one part's failure does not stop the others.
#   bench/gpu.sh               all parts
#   bench/gpu.sh step contrast only these
# Figures (JSON), tables and the whole output of each part go to $OUT, or to runs/bench-gpu. PYTHON names the
# interpreter, with jax[cuda13], torch and this project's dependencies (pip install -e '.[gpu,test,rjieba]').
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${OUT:-runs/bench-gpu}
mkdir -p "$out"

run() {  # the command of a part
  case $1 in
    tests)     "$python" -m pytest -m gpu -p no:cacheprovider ;;
    step)      "$python" bench/step.py --device gpu --dtypes bfloat16 --json "$out/step.json" ;;
    contrast)  "$python" bench/contrast.py --gpu --json "$out/contrast.json" ;;
    profile)   "$python" bench/profile_step.py --json "$out/profile.json" ;;
    loader)    "$python" bench/loader.py --json "$out/loader.json" ;;
    finetune)  "$python" bench/finetune.py --device gpu --json "$out/finetune.json" ;;
    encode)    "$python" bench/encode.py --size base --json "$out/encode.json" ;;
    mirror)    "$python" bench/mirror.py --json "$out/mirror.json" ;;
    step-fp32) "$python" bench/step.py --device gpu --dtypes float32 --json "$out/step-fp32.json" ;;
    *)         echo "there is no part $1; there are: ${parts[*]}" >&2; return 2 ;;
  esac
}

parts=(tests step contrast profile loader finetune mirror encode step-fp32)
(($#)) || set -- "${parts[@]}"
failed=()
for part in "$@"; do
  echo "== $part =="
  start=$SECONDS
  # Tables are what a part prints; what it says beside them goes to the log alone.
  run "$part" > >(tee "$out/$part.md") 2> "$out/$part.log"
  code=$?
  if ((code)); then
    failed+=("$part")
    echo "FAILED with $code; the end of $out/$part.log:"
    tail -n 15 "$out/$part.log"
  fi
  echo "== $part: $((SECONDS - start)) s =="
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}; run them again with: bench/gpu.sh ${failed[*]}"
  exit 1
fi
echo "all parts are done; figures and tables are in $out"
