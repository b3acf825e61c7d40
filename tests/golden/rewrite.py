"""Writes the golden's answers anew and says how many changed, and in what: `python -m tests.golden.rewrite`."""

import json
from collections import Counter

from tests.golden.answers import PLANS, answer, golden


def main() -> None:
    changes: Counter[str] = Counter()
    lines = []
    for plan, kept in golden():
        now = answer(plan)
        if now != kept:
            different = sorted(key for key in kept.keys() | now.keys() if kept.get(key) != now.get(key))
            changes["refused now" if "refused" in now else ", ".join(different)] += 1
        lines.append(json.dumps({"plan": plan, "answer": now}, separators=(",", ":")) + "\n")
    PLANS.write_text("".join(lines), encoding="utf-8")
    print(f"{sum(changes.values())} of {len(lines)} answers changed")
    for parts, count in changes.most_common():
        print(f"{count:5}  {parts}")


if __name__ == "__main__":
    main()
