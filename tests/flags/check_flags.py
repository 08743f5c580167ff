"""Two objects compiled with different flags, linked in both orders, compute the same bytes with every
instruction set: check_flags.py PROGRAM PROGRAM, one a link order. The linker keeps the first object's copy of each
inline function, so the orders run different code."""
import os
import subprocess
import sys


def run(program, isa):
    return subprocess.run([program], env={**os.environ, "GQA_ISA": isa}, capture_output=True, text=True)


failed = False
for isa in ("generic", "avx2", "avx512", "avx512bf16", "amx"):
    results = [run(program, isa) for program in sys.argv[1:3]]
    if any(result.returncode == 77 for result in results):
        print(f"{isa}: skipped: {results[0].stdout.strip()}")
        continue
    agree = all(result.returncode == 0 for result in results)
    same = results[0].stdout == results[1].stdout
    print(f"{isa}: the objects {'agree' if agree else 'DIFFER'}, the link orders {'agree' if same else 'DIFFER'}")
    for result in results:
        print(f"  {result.stdout.strip()} {result.stderr.strip()}")
    failed = failed or not (agree and same)
sys.exit(failed)
