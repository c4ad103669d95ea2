"""All benches, one after another; or those that are named."""

import subprocess
import sys

BENCHES = ("bulk_copy", "many", "queue", "memory", "cutover", "deliver", "feed", "imap", "imap.one_folder")


def main() -> int:
    named = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in named if name not in BENCHES]
    if unknown:
        print(f"there is no bench {unknown[0]}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    return max(subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode for name in named)


if __name__ == "__main__":
    sys.exit(main())
