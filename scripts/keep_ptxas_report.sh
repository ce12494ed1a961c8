#!/bin/sh
# Runs a compilation with nvcc (`$@`) and keeps what ptxas reports of each kernel beside the object file, as X.o.ptxas.
object=
before=
for argument; do
    [ "$before" = -o ] && object=$argument
    before=$argument
done
[ -n "$object" ] || exec "$@"
"$@" -Xptxas -v 2> "$object.ptxas"
status=$?
grep -v -e '^ptxas info' -e '^ *[0-9]* bytes stack frame' "$object.ptxas" >&2
exit "$status"
