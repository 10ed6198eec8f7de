#!/bin/sh
# Builds the guests that tests use to tests/guests/dist/NAME.wasm. See plugins/build.sh, which this only points elsewhere.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../../plugins/build.sh" "$here"
