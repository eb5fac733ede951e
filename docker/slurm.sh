#!/bin/bash
# A grid on a Ray cluster inside one Slurm job; docs/scaling.md tells how to use it:
#
#     sbatch [sbatch's options] docker/slurm.sh run experiments/x.yaml [options of harness]
#
# Called in the checkout, which all nodes see, as they see the store. sbatch's own options on the
# command line win over these lines.
#SBATCH --job-name=harness
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
# For GPUs, and give --gpus-per-cell to harness; remove one #:
##SBATCH --gpus-per-node=1
# The first words of a queue's rules, mostly; remove one #:
##SBATCH --partition=NAME
##SBATCH --account=NAME
# 5 minutes before the limit, should --max-time not have come first; to this script alone.
#SBATCH --signal=B:TERM@300
# A lost node costs its cells the time since their last epoch, not the job.
#SBATCH --no-kill
# REQUEUE=1 needs a job that may be.
#SBATCH --requeue
#
# Variables, as in `sbatch --export=ALL,REQUEUE=1 docker/slurm.sh ..`:
#   BIN         where harness, ray and python are: .venv/bin
#   WAIT        seconds in which all nodes must have come: 180
#   MARGIN      seconds before the job's limit at which --max-time stops the command: 420
#   REQUEUE     1: put the job back into the queue while cells are left: 0
#   PATIENCE    seconds that Ray has to end: 45
#   OBJECTS     bytes of Ray's object store on each node: 1000000000
set -u

# What squeue says of the time that is left (D-HH:MM:SS, MM:SS ..) in seconds; fails at UNLIMITED,
# INVALID and the like.
seconds_of() {
    local days=0 clock=$1 seconds=0 part
    [[ $1 =~ ^([0-9]+-)?([0-9]+:){1,2}[0-9]+$ ]] || return 1
    if [[ $1 == *-* ]]; then
        days=${1%%-*} clock=${1#*-}
    fi
    local -a parts
    IFS=: read -ra parts <<< "$clock"
    for part in "${parts[@]}"; do
        seconds=$((seconds * 60 + 10#$part))
    done
    echo $((10#$days * 86400 + seconds))
}

fail() {
    echo "error: $1" >&2
    exit 2
}

# The exit status of a child, also of one that has ended already; a trapped signal interrupts no more than
# one `wait`.
await() {
    local status
    while :; do
        wait "$1"
        status=$?
        kill -0 "$1" 2> /dev/null || return "$status"
    done
}

# On every node, by srun: folder, bin, arguments of `ray start`. TERM ends all of this Ray, and none
# of another job's, as `ray stop` would. Under --block Ray ends when one of its processes does.
on_node() {
    local folder=$1 bin=$2 ray status=0
    shift 2
    mkdir -m 700 "$folder" 2> /dev/null # it is there where the job was put back into the queue
    if [ ! -O "$folder" ]; then
        echo "$folder: cannot be made here, or is another user's"
        return 1
    fi
    trap 'kill -TERM "$ray" 2> /dev/null' TERM INT
    "$bin/ray" start --block --temp-dir="$folder" "$@" &
    ray=$!
    await "$ray"
    status=$?
    rm -rf "$folder"
    return "$status"
}

# Node, then arguments of `ray start`; the step's id is added to `steps`.
start_on() {
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="$cpus" --export=ALL \
        bash -c "$(declare -f await on_node); on_node \"\$@\"" ray "$folder" "$bin" \
        --num-cpus="$cpus" --object-store-memory="$objects" "$@" > "$logs/$node.log" 2>&1 &
    steps+=("$!")
    names+=("$node")
}

# Until Ray has as many live nodes as the job.
await_nodes() {
    exec timeout "$wait_seconds" "$bin/python" - "$address" "${#nodes[@]}" << 'PYTHON'
import sys
import time

import ray

address, n = sys.argv[1], int(sys.argv[2])
while True:
    try:
        ray.init(address=address, logging_level="CRITICAL", log_to_driver=False)
        break
    except Exception:  # the head is not there yet
        time.sleep(0.5)
while sum(node["Alive"] for node in ray.nodes()) < n:
    time.sleep(0.5)
PYTHON
}

# Steps end on TERM: Ray drains a node for 30 s at most. Of those that do not, Slurm ends what is left
# at the job's end. An srun that gets TERM itself kills its step, and `on_node` could not tidy up.
stop_ray() {
    local step tries
    trap '' TERM INT
    for ((tries = 0; tries < 2 * patience; tries++)); do
        [ -n "$(jobs -pr)" ] || break
        # All steps, not this script; again for a step that was still about to start.
        ((tries % 10)) || scancel --quiet --signal=TERM "$SLURM_JOB_ID" 2> /dev/null
        sleep 0.5
    done
    for step in $(jobs -pr); do
        kill -KILL "$step" 2> /dev/null
    done
    wait 2> /dev/null
    rm -rf "$folder"
}

main() {
    local bin=${BIN:-$PWD/.venv/bin} wait_seconds=${WAIT:-180} margin=${MARGIN:-420}
    local patience=${PATIENCE:-45} objects=${OBJECTS:-1000000000}
    local cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
    [ -n "${SLURM_JOB_ID:-}" ] || fail "SLURM_JOB_ID: not set; call it as \`sbatch docker/slurm.sh run FILE\`"
    case "${1:-}" in
    run | tune) ;;
    *) fail "command: '${1:-}'; on Ray it is run or tune: sbatch docker/slurm.sh run FILE" ;;
    esac
    local name
    for name in WAIT MARGIN PATIENCE OBJECTS; do
        [[ ${!name:-1} =~ ^[0-9]+$ ]] || fail "$name: '${!name}' is no whole number; leave it out for the default"
    done
    for name in harness ray python; do
        [ -x "$bin/$name" ] || fail "BIN: no $bin/$name; call sbatch in the checkout, or give the folder of the environment"
    done

    # The time: --max-time is a margin under what is left, unless the caller gives another.
    local -a options=()
    local left seconds # 0: no --max-time of ours
    left=$(squeue -h -j "$SLURM_JOB_ID" -o %L 2> /dev/null)
    if [[ " $* " == *" --max-time"[=\ ]* ]]; then
        seconds=0
    elif seconds=$(seconds_of "$left"); then
        ((seconds > margin)) || fail "--time: $seconds s are left of this job, and MARGIN is $margin s; ask for more time"
        seconds=$((seconds - margin + SECONDS)) # since the start of this script
    else
        seconds=0
        [ "$left" = UNLIMITED ] ||
            echo "note: squeue says '$left' of the time that is left; only the signal before the limit stops the command" >&2
    fi

    # The cluster. Ports from the job's number: nodes may be shared with other jobs.
    local -a nodes steps=() names=()
    mapfile -t nodes < <(scontrol show hostnames "${SLURM_JOB_NODELIST:-}")
    [ "${#nodes[@]}" -gt 0 ] || fail "SLURM_JOB_NODELIST: scontrol names no node of this job"
    local head ip port=$((20000 + SLURM_JOB_ID % 6000 * 2)) folder=/tmp/ray-$SLURM_JOB_ID
    head=${nodes[0]}
    ip=$(getent ahostsv4 "$head" | awk '{ print $1; exit }')
    [ -n "$ip" ] || fail "node $head: its name has no IPv4 address here"
    local address=$ip:$port logs=$PWD/ray-$SLURM_JOB_ID node
    mkdir -p "$logs"
    # Other users of the machines reach Ray's ports: it takes orders from who has the token alone.
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
    # Its own limits are 30 s, and the cells of a job wait for nobody.
    export RAY_raylet_start_wait_time_s=$wait_seconds RAY_gcs_server_port_wait_time_s=$wait_seconds
    export RAY_worker_niceness=${RAY_worker_niceness:-0}

    local harness='' stopped=''
    trap 'stopped=1; [ -z "$harness" ] || kill -TERM "$harness" 2> /dev/null' TERM INT
    local -a client=()
    ! "$bin/python" -c 'import grpc' 2> /dev/null || client=(--ray-client-server-port="$((port + 1))")
    start_on "$head" --head --node-ip-address="$ip" --port="$port" "${client[@]}" --include-dashboard=false
    for node in "${nodes[@]:1}"; do
        start_on "$node" --address="$address"
    done
    await_nodes > "$logs/wait.log" 2>&1 &
    local waiting=$! status
    wait -n "$waiting" "${steps[@]}" # whichever ends first
    status=$?
    if [ -n "$stopped" ] || kill -0 "$waiting" 2> /dev/null || [ "$status" != 0 ]; then
        local why="not all of ${#nodes[@]} nodes joined Ray within $wait_seconds s; give WAIT=N for more" i
        for i in "${!steps[@]}"; do
            kill -0 "${steps[i]}" 2> /dev/null || why="node ${names[i]}: \`ray start\` ended"
        done
        [ -z "$stopped" ] || why="stopped before all nodes had joined Ray"
        kill -TERM "$waiting" 2> /dev/null
        stop_ray
        fail "$why; nothing was trained; what the nodes said is in $logs"
    fi

    # The command, with its exit status; signals reach it, and it stops its cells in order.
    [ "$seconds" = 0 ] || options=(--max-time "$((seconds > SECONDS ? seconds - SECONDS : 1))s")
    "$bin/harness" "$@" --executor ray --ray-address "$address" "${options[@]}" &
    harness=$!
    [ -z "$stopped" ] || kill -TERM "$harness" 2> /dev/null
    await "$harness"
    status=$?
    stop_ray
    case "$status" in
    0 | 3 | 130) rm -rf "$logs" ;;
    esac
    if [ "$status" = 3 ] && [ "${REQUEUE:-0}" = 1 ]; then
        scontrol requeue "$SLURM_JOB_ID" # ends this script
    fi
    exit "$status"
}

# Sourced, it only defines functions.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
fi
