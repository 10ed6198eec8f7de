;; Makes the request of a key policy in the memory of the policy, and says where the decision lies. `mod.rs` says why, `append.rs` puts
;; this module into the policy's component, `layout.rs` writes the piece and reads the decision.
(module
  ;; The policy's memory is 0, and 1 is the adapter's own: what is asked for of the policy's allocator is the policy's, and some
  ;; take back all of it when a call is over.
  (import "policy" "memory" (memory $policy 0))
  (import "policy" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  ;; Texts and lists as address and length: method, route, path, query, headers. The result is where the decision lies.
  (import "policy" "derive" (func $derive (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  ;; Takes back what a decision is made of.
  (import "policy" "post-return" (func $post-return (param i32)))
  (memory $own (export "memory") 1)

  ;; The last decision, until it is taken back: at the next call, for the host reads it after this one. No decision lies at -1.
  (global $said (mut i32) (i32.const -1))
  ;; The policy's own bytes, where the host is told of its memory.
  (global $kept (mut i64) (i64.const 0))
  ;; What is next to be read of the piece: lengths and counts, and texts.
  (global $number (mut i32) (i32.const 0))
  (global $text (mut i32) (i32.const 0))

  ;; What the host asks for room for is the piece, once in a call. It lies at the start.
  (func (export "realloc") (param i32 i32 i32) (param $bytes i32) (result i32)
    (local $lacking i32)
    (local.set $lacking (i32.sub
      (i32.shr_u (i32.add (local.get $bytes) (i32.const 0xffff)) (i32.const 16))
      (memory.size $own)))
    (if (i32.gt_s (local.get $lacking) (i32.const 0))
      (then
        (if (i32.eq (memory.grow $own (local.get $lacking)) (i32.const -1))
          (then (unreachable)))))
    (i32.const 0))

  ;; The piece: five numbers, the lengths of the method and of the route and how long the three lists are; two numbers for each
  ;; of their pairs, the lengths of name and value; then all texts in the same order. The result: how many pages the policy's
  ;; memory has, and in the lower half where the decision lies.
  (func (export "derive") (param $piece i32) (param $bytes i32) (result i64)
    (local $method i32) (local $route i32) (local $path i32) (local $query i32) (local $headers i32)
    (local $method# i32) (local $route# i32) (local $path# i32) (local $query# i32) (local $headers# i32)
    (if (i32.ne (global.get $said) (i32.const -1))
      (then (call $post-return (global.get $said))))
    (local.set $method# (i32.load $own offset=0 (local.get $piece)))
    (local.set $route# (i32.load $own offset=4 (local.get $piece)))
    (local.set $path# (i32.load $own offset=8 (local.get $piece)))
    (local.set $query# (i32.load $own offset=12 (local.get $piece)))
    (local.set $headers# (i32.load $own offset=16 (local.get $piece)))
    (global.set $number (i32.add (local.get $piece) (i32.const 20)))
    (global.set $text (i32.add (global.get $number) (i32.shl
      (i32.add (i32.add (local.get $path#) (local.get $query#)) (local.get $headers#))
      (i32.const 3))))
    (local.set $method (call $made (local.get $method#)))
    (local.set $route (call $made (local.get $route#)))
    (local.set $path (call $list (local.get $path#)))
    (local.set $query (call $list (local.get $query#)))
    (local.set $headers (call $list (local.get $headers#)))
    (global.set $said (call $derive
      (local.get $method) (local.get $method#) (local.get $route) (local.get $route#)
      (local.get $path) (local.get $path#) (local.get $query) (local.get $query#)
      (local.get $headers) (local.get $headers#)))
    (i64.or
      (i64.extend_i32_u (global.get $said))
      (i64.shl (i64.extend_i32_u (memory.size $policy)) (i64.const 32))))

  ;; The policy's memory as a list of bytes, asked for when it has grown. What says so must lie in it: at its start, until the host has
  ;; read that. Nothing of the policy runs here: a decision may lie there that is not read yet.
  (func (export "memory-of-policy") (result i32)
    (global.set $kept (i64.load $policy (i32.const 0)))
    (i32.store $policy offset=0 (i32.const 0) (i32.const 0))
    (i32.store $policy offset=4 (i32.const 0) (select
      (i32.shl (memory.size $policy) (i32.const 16))
      (i32.const -1)
      (i32.ne (memory.size $policy) (i32.const 65536))))
    (i32.const 0))
  (func (export "post-memory-of-policy") (param i32)
    (i64.store $policy (i32.const 0) (global.get $kept)))

  ;; The next pairs, as a list of the policy's own.
  (func $list (param $pairs i32) (result i32)
    (local $list i32) (local $at i32) (local $end i32)
    (local.set $list (call $realloc
      (i32.const 0) (i32.const 0) (i32.const 4) (i32.shl (local.get $pairs) (i32.const 4))))
    (local.set $at (local.get $list))
    (local.set $end (i32.add (local.get $list) (i32.shl (local.get $pairs) (i32.const 4))))
    (block $done
      (loop $pair
        (br_if $done (i32.eq (local.get $at) (local.get $end)))
        (call $half (local.get $at) (i32.load $own offset=0 (global.get $number)))
        (call $half (i32.add (local.get $at) (i32.const 8)) (i32.load $own offset=4 (global.get $number)))
        (global.set $number (i32.add (global.get $number) (i32.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br $pair)))
    (local.get $list))

  ;; A name or a value.
  (func $half (param $at i32) (param $bytes i32)
    (i32.store $policy offset=0 (local.get $at) (call $made (local.get $bytes)))
    (i32.store $policy offset=4 (local.get $at) (local.get $bytes)))

  ;; The next text, in a block of the policy's own. Most are a few bytes, for which `memory.copy` takes longer than this.
  (func $made (param $bytes i32) (result i32)
    (local $made i32) (local $to i32) (local $from i32)
    (local.set $made (local.tee $to
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (local.get $bytes))))
    (local.set $from (global.get $text))
    (global.set $text (i32.add (local.get $from) (local.get $bytes)))
    (if (i32.ge_u (local.get $bytes) (i32.const 128))
      (then
        (memory.copy $policy $own (local.get $to) (local.get $from) (local.get $bytes))
        (return (local.get $made))))
    (block $rest
      (loop $eight
        (br_if $rest (i32.lt_u (local.get $bytes) (i32.const 8)))
        (i64.store $policy align=1 (local.get $to) (i64.load $own align=1 (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.const 8)))
        (local.set $from (i32.add (local.get $from) (i32.const 8)))
        (local.set $bytes (i32.sub (local.get $bytes) (i32.const 8)))
        (br $eight)))
    (if (i32.and (local.get $bytes) (i32.const 4))
      (then
        (i32.store $policy align=1 (local.get $to) (i32.load $own align=1 (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.set $from (i32.add (local.get $from) (i32.const 4)))))
    (if (i32.and (local.get $bytes) (i32.const 2))
      (then
        (i32.store16 $policy align=1 (local.get $to) (i32.load16_u $own align=1 (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.const 2)))
        (local.set $from (i32.add (local.get $from) (i32.const 2)))))
    (if (i32.and (local.get $bytes) (i32.const 1))
      (then (i32.store8 $policy (local.get $to) (i32.load8_u $own (local.get $from)))))
    (local.get $made)))
