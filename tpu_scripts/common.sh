# shellcheck shell=bash
# What the scripts share: options, the table of TPUs and their prices, and how to reach a slice. Sourced, not run.
# shellcheck disable=SC2034  # what is set here is read by the scripts
set -euo pipefail

((BASH_VERSINFO[0] > 4 || (BASH_VERSINFO[0] == 4 && BASH_VERSINFO[1] >= 4))) || {
  echo "bash 4.4 or newer is needed, and this is $BASH_VERSION; Google's Cloud Shell has a new one." >&2
  exit 1
}

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SESSION=t5x_mini         # tmux's session on a worker
REMOTE_LOG=t5x_mini.log  # in a worker's home folder
OF_SLICE="name= zone= project= direct dry-run"
OF_CREATION="type= slices= spot reserved runtime= price= network= subnetwork= service-account= yes"

# Options, as read by parse_options.
name='' zone='' project='' direct='' dry_run='' type='' slices=1 spot='' reserved='' runtime='' price='' network=''
subnetwork='' service_account='' yes='' files='' restart='' worker=0 lines=20 follow='' keep='' poll=60 max_failures=5
ARGUMENTS=()  # what follows `--`

say() { printf '%s\n' "$*"; }

fail() {
  printf '%s: error: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Reads --name=value and --flag into variables of these names.
# $1: the options that this script takes, `zone=` or `spot`; the rest: the command line.
parse_options() {
  local takes=" $1" word option value
  shift
  while (($#)); do
    word=$1
    shift
    case $word in
      --help)
        sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
        exit 0
        ;;
      --)
        ARGUMENTS=("$@")
        break
        ;;
      --?*=*) option=${word%%=*}= value=${word#*=} ;;
      --?*) option=$word value=yes ;;
      *) fail "'$word' is not an option: options are written --name=value; what is for t5x-mini comes after --" ;;
    esac
    option=${option#--}
    [[ "$takes " == *" $option "* ]] || fail "'$word' is not an option of ${0##*/}; it takes${takes// / --}"
    option=${option%=}
    printf -v "${option//-/_}" %s "$value"
  done
  [[ $name ]] || fail "which slice? Write --name=my-slice"
  [[ $zone ]] || fail "where? Write --zone=us-central2-b"
  PLACE=("--zone=$zone" ${project:+"--project=$project"})
  KIND=queued-resources EVERYWHERE=(--node=all --worker=all)
  if [[ $direct ]]; then KIND=tpu-vm EVERYWHERE=(--worker=all); fi
}

# Runs a command, or prints it.
run() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() { run gcloud compute tpus "$KIND" "$@"; }

# A machine that was taken away answers nothing, and ssh would wait for it for ever.
ALIVE=(--ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=30)

# Runs a shell command on all workers of all slices.
on_all() { tpus ssh "$name" "${PLACE[@]}" "${EVERYWHERE[@]}" "--command=$1" "${ALIVE[@]}" --quiet; }

# Runs a shell command on one worker (of the first slice), by its number.
on_worker() { tpus ssh "$name" "${PLACE[@]}" "--worker=$1" "--command=$2" "${ALIVE[@]}" --quiet; }

# The state that Google gives the slice (ACTIVE or READY is up), ABSENT where there is none, UNKNOWN if it did not say.
state() {
  local field=state.state errors answer
  if [[ $direct ]]; then field=state; fi
  errors=$(mktemp)
  if answer=$(gcloud compute tpus "$KIND" describe "$name" "${PLACE[@]}" "--format=value($field)" 2>"$errors"); then
    say "${answer:-UNKNOWN}"
  elif grep -q NOT_FOUND "$errors"; then
    say ABSENT
  else
    cat "$errors" >&2
    say UNKNOWN
  fi
  rm -f "$errors"
}

# What each worker that can be reached is doing: `bare` before set-up, then `running` or `stopped`; one a line.
workers() {
  local errors
  errors=$(mktemp)
  on_all "if tmux has-session -t $SESSION 2>/dev/null; then echo running
    elif test -e t5x_mini/installed; then echo stopped; else echo bare; fi" 2>"$errors" |
    grep -xE 'running|stopped|bare' || cat "$errors" >&2
  rm -f "$errors"
}

# Sets CHIPS and HOSTS of one slice, PRICE (dollars a chip-hour on demand) and RUNTIME, from $type.
#   names and sizes  https://cloud.google.com/tpu/docs/v4 (v5e, v5p, v6e)
#   runtimes         https://cloud.google.com/tpu/docs/runtimes
#   prices           https://cloud.google.com/tpu/pricing, list prices in the United States in 2025; they differ by
#                    region and change: give yours as --price=
look_up_type() {
  local number=${type##*-}
  [[ $type == *-* && $number =~ ^[1-9][0-9]{0,4}$ ]] || fail "which TPU? Write --type=v4-32, for example"
  case $type in
    v4-*) CHIPS=$((number / 2)) PRICE=3.22 RUNTIME=tpu-ubuntu2204-base ;;
    v5p-*) CHIPS=$((number / 2)) PRICE=4.20 RUNTIME=v2-alpha-tpuv5 ;;
    v5litepod-*) CHIPS=$number PRICE=1.20 RUNTIME=v2-alpha-tpuv5-lite ;;
    v6e-*) CHIPS=$number PRICE=2.70 RUNTIME=v2-alpha-tpuv6e ;;
    v5e-*) fail "gcloud's name for '$type' is v5litepod-$number: write --type=v5litepod-$number" ;;
    *)
      fail "'$type' is none of v4-N and v5p-N (N counts TensorCores, two a chip) and v5litepod-N and v6e-N (N counts" \
        "chips). TPU7x is to be had through GKE alone: see gke_jobset.yaml"
      ;;
  esac
  ((CHIPS > 0)) || fail "'$type': v4 and v5p names count TensorCores, two a chip; the smallest is ${type%-*}-8"
  # One host holds up to 8 chips of v5e and v6e; all else has 4 a host.
  HOSTS=$(((CHIPS + 3) / 4))
  if [[ $type == v5litepod-8 || $type == v6e-8 ]]; then HOSTS=1; fi
  PRICE=${price:-$PRICE}
  RUNTIME=${runtime:-$RUNTIME}
}

# What the slices cost, to be said before they are created.
cost() {
  local tier="on demand"
  if [[ $spot ]]; then tier="spot; the list price on demand, which spot is below"; fi
  if [[ $reserved ]]; then tier="reserved; the list price on demand, your contract says what you pay"; fi
  if [[ $price ]]; then tier="your price"; fi
  awk -v type="$type" -v slices="$slices" -v chips="$CHIPS" -v hosts="$HOSTS" -v price="$PRICE" -v tier="$tier" 'BEGIN {
    hour = slices * chips * price
    printf "cost: %s x %d: %d chips on %d host(s) at $%.2f a chip-hour (%s): $%.2f an hour, $%.2f a day\n",
      type, slices, slices * chips, slices * hosts, price, tier, hour, 24 * hour
  }'
  if [[ ! $price ]]; then
    say "list prices are those of 2025 in the United States; today's: https://cloud.google.com/tpu/pricing (--price=)"
  fi
}

# Stops unless the user agrees; --yes has agreed already.
agree() {
  local answer=''
  if [[ $yes || $dry_run ]]; then return; fi
  read -r -p "$1 [y/N] " answer || true
  [[ $answer == [yY]* ]] || fail "nothing was done; --yes does it without asking"
}
