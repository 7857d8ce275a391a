#!/bin/sh
# run.sh SECONDS TARGET...: let each fuzz target run for so long, two at a time.
# Prints the executions and findings of each; fails if there is a finding.

seconds=$1
shift

# What the target learns stays beside it, for the next run.
fuzz()
{
	name=$(basename "$1")
	case $name in
	scan) length=9000 ;;
	update) length=400 ;;
	*) length=2000 ;;
	esac
	mkdir -p "$1.corpus"
	rm -f "$1".finding-*
	timeout -s KILL $((seconds + 120)) "$1" -max_total_time="$seconds" \
	    -max_len=$length -timeout=20 -report_slow_units=20 -rss_limit_mb=4096 \
	    -print_final_stats=1 -artifact_prefix="$1.finding-" \
	    "$1.corpus" "corpus/$name" >"$1.log" 2>&1
	status=$?
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$1.log")
	found=$(find "$(dirname "$1")" -name "$name.finding-*" | wc -l)
	echo "$name: ${runs:-?} executions in $seconds s, $found findings"
	if [ $status -eq 0 ]; then
		return 0
	fi
	grep -a -E '^[a-z_./]+\.[ch]:[0-9]+|^SUMMARY|ERROR:' "$1.log"
	find "$(dirname "$1")" -name "$name.finding-*"
	[ $status -ne 137 ] || echo "$name hung: no finding could be kept"
	return 1
}

failed=0
while [ $# -gt 0 ]; do
	fuzz "$1" &
	first=$!
	second=
	if [ $# -gt 1 ]; then
		fuzz "$2" &
		second=$!
		shift
	fi
	shift
	wait $first || failed=1
	[ -z "$second" ] || wait $second || failed=1
done
exit $failed
