#!/usr/bin/python3
"""Is there a reason for each line that was never run?

    uncovered.py reasons <what llvm-cov's show printed

In the file of reasons a group is a file, a function, a colon and the reason,
and then, behind tabs, the lines as they stand in that function: as often as
they stand there and are not run.  A lone } is no line.
"""

import collections
import pathlib
import re
import sys


def reasons(text):
    """How many lines (file, function, text) there may be."""
    listed = collections.Counter()
    for group in re.sub(r"^#.*\n", "", text, flags=re.M).strip().split("\n\n"):
        where = re.match(r"(\S+) (\w+): \S", group)
        assert where, f"no file, function and reason: {group}"
        for line in re.findall(r"^\t\s*(.*)", group, flags=re.M):
            listed[where[1], where[2], line] += 1
    return listed


def lines(shown):
    """For each line of the sources: (file, function, text), number, count."""
    file = function = ""
    for row in shown:
        if row.startswith("/"):
            file = pathlib.Path(row.strip().rstrip(":")).name
        elif row.count("|") >= 2:
            number, count, text = row.rstrip("\n").split("|", 2)
            if name := re.match(r"(\w+)\(", text):
                function = name[1]
            yield (file, function, text.strip()), number.strip(), count.strip()


def main():
    left = reasons(pathlib.Path(sys.argv[1]).read_text())
    there, explained, bad = set(), 0, 0
    for line, number, count in lines(sys.stdin):
        there.add(line)
        if count != "0" or line[2] == "}":
            continue
        if left[line] > 0:
            left[line] -= 1
            explained += 1
        else:
            bad += 1
            print(f"{line[0]}:{number}: {line[1]}: never run: {line[2]}")
    for line in left.elements():
        bad += line not in there
        print(*line, sep=": ", end=": was run\n" if line in there else
              ": is no such line\n")
    print(f"{explained} lines were not run for a reason, {bad} without one")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
