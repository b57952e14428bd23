"""The tests of a module of unittest's, told as TAP: for an interpreter that has no pytest."""

from __future__ import annotations

import os
import sys
import unittest


class _Result(unittest.TestResult):
    def _say(self, word: str, test: unittest.TestCase, more: str = "") -> None:
        print(f"{word} {self.testsRun} {test.id()}{more}", flush=True)  # noqa: T201

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        self._say("ok", test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._say("ok", test, f" # SKIP {reason}")

    def addFailure(self, test, err) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001, N802
        super().addFailure(test, err)
        self._say("not ok", test)
        print(self.failures[-1][1], file=sys.stderr)  # noqa: T201

    def addError(self, test, err) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001, N802
        super().addError(test, err)
        self._say("not ok", test)
        print(self.errors[-1][1], file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    found = _Result()
    unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])(found)
    sys.exit(not found.wasSuccessful())
