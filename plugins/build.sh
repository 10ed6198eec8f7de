#!/bin/sh
# Builds every plugin of a workspace of plugins (this one, or the one at $1) for wasm32-wasip2, and leaves each at
# dist/NAME.wasm beside its Cargo.toml. Run it as often as you like: a component that did not change is not touched, and
# one that did is renamed into place whole, because a server may be watching the directory.
#
# Needs cargo and the target: rustup target add wasm32-wasip2
# With CARGO_TARGET_DIR set it builds in the directory `guests` of that, so as not to wait for a build of the host.
set -eu
workspace=${1:-$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)}
case ${CARGO_TARGET_DIR:-} in
'') target=$workspace/target ;;
/*) target=$CARGO_TARGET_DIR/guests ;;
*) target=$PWD/$CARGO_TARGET_DIR/guests ;;
esac
cd "$workspace"

CARGO_TARGET_DIR=$target cargo build --quiet --release --locked --target wasm32-wasip2

mkdir -p dist
for manifest in */Cargo.toml; do
    name=${manifest%/Cargo.toml}
    built=$target/wasm32-wasip2/release/$(printf %s "$name" | tr - _).wasm
    # A member without crate-type cdylib is a library, and no plugin.
    grep -q '"cdylib"' "$manifest" || continue
    cmp -s "$built" "dist/$name.wasm" && continue
    # A name that is not *.wasm until it is whole.
    cp "$built" "dist/.$name.new"
    mv -f "dist/.$name.new" "dist/$name.wasm"
    printf 'built %s\n' "$workspace/dist/$name.wasm"
done
