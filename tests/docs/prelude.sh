# What stands before the blocks of a page when they are run, in the order of the page, by one shell.
set -eEuo pipefail
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
stage=$PWD
server=

finish() {
    trap - EXIT
    local running
    running="$(jobs -p)"
    # shellcheck disable=SC2086 # numbers of processes
    [[ -z $running ]] || kill $running 2>/dev/null || true
    wait || true
}
trap finish EXIT
trap 'exit 143' TERM

# until_it_is COMMAND...: waits, 20 s at most.
until_it_is() {
    local times=0
    until "$@" >/dev/null 2>&1; do
        ((++times < 400)) || { echo "$* does not come true" >&2; return 1; }
        sleep 0.05
    done
}

# The server answers, and has found its Redis if it has one: it does not wait for that by itself.
is_ready() {
    local said
    said="$(command curl -sf "http://127.0.0.1:$ADMIN_PORT/readyz")" && [[ $said != *'"available":false'* ]]
}

# Another terminal. Who starts the server again has ended the one before.
larder() {
    if [[ ${1:-} != serve ]]; then command larder "$@"; return; fi
    if [[ -n $server ]]; then kill "$server"; wait "$server" || true; fi
    command larder "$@" >>"$stage/log" 2>&1 &
    server=$!
    until_it_is is_ready || { cat "$stage/log" >&2; return 1; }
}

redis-server() {
    command redis-server "$@" >>"$stage/redis.log" 2>&1 &
    until_it_is command redis-cli -p "$REDIS_PORT" ping
}

# What a page asks for it gets: a status that is not 2xx fails, unless the page says which one comes (EXPECT).
curl() {
    local status want="${EXPECT-2}"
    command curl -sS -w '%{stderr}%{http_code}\n' "$@" 2>"$stage/status" | tee "$stage/answer"
    status="$(tail -n 1 "$stage/status")"
    [[ $status == "$want"* ]] || { echo "curl $*: $(cat "$stage/status"), not $want" >&2; return 1; }
}

# The change that the last answer told of.
last_write() { grep -oE '/writes/[0-9a-f]{32}' "$stage/answer" | tail -n 1; }
