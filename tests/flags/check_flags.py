"""Objects compiled with different flags, linked in several orders, compute the same bytes with every instruction
set: check_flags.py PROGRAM..., one a link order. The linker keeps the first object's copy of each inline function, so
the orders run different code."""
import os
import subprocess
import sys


def run(program, isa):
    return subprocess.run([program], env={**os.environ, "GQA_ISA": isa}, capture_output=True, text=True)


def differences(results):
    """The results that depend on the link order, or a program's end."""
    lines = [result.stdout.splitlines() for result in results]
    for other in lines[1:]:
        yield from (f"by link order: {a} and {b}" for a, b in zip(lines[0], other) if a != b)
        if len(other) != len(lines[0]):
            yield f"by link order: {len(lines[0])} results and {len(other)}"


failed = False
for isa in ("generic", "avx2", "avx512", "avx512bf16", "amx"):
    results = [run(program, isa) for program in sys.argv[1:]]
    if all(result.returncode == 77 for result in results):
        print(f"{isa}: skipped: {results[0].stderr.strip()}")
        continue
    problems = list(differences(results))
    for program, result in zip(sys.argv[1:], results):
        if result.returncode != 0:
            problems.append(f"{program} returned {result.returncode}: {result.stderr.strip()}")
    print(f"{isa}: {len(results[0].stdout.splitlines())} results, {len(problems)} problems")
    for problem in problems:
        print(f"  {problem}")
    failed = failed or bool(problems)
sys.exit(failed)
