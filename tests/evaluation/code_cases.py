"""Programs as models write them, and the verdict of the official LiveCodeBench checker.

The verdicts of `OFFICIAL` are the checker's own: it was run on every row (commit 28fef95). Those of
`DIFFERENT` are ours, and the checker's is said beside them; docs/evaluation.md lists them.
"""

from __future__ import annotations

from typing import Any

_SIGNATURE = "class Solution:\n    def f(self, a):\n        "


def program(given: str, wanted: str) -> dict[str, Any]:
    """Tests of a program that reads standard input."""
    return {"inputs": [given], "outputs": [wanted], "fn_name": None}


def function(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Tests of a function `f`: its argument and its value."""
    given, wanted = zip(*pairs, strict=True)
    return {"inputs": list(given), "outputs": list(wanted), "fn_name": "f"}


def method(body: str) -> str:
    """A method `f` of one argument `a`."""
    return _SIGNATURE + body.replace("\n", "\n        ") + "\n"


_TEN_TO_5000 = "1" + "0" * 5000
SUM = program("3\n1 2 3\n", "6\n")
EMPTY = program("", "5\n")
THREE = function(("[1, 2]", "3"))
LIST = function(("[1, 2]", "[1, 2]"))
READ = "n = int(input())\na = list(map(int, input().split()))\n"

# Names of the imports that stand before every program.
_NAMES = {
    "deque": "q = deque(a)\nt = 0\nwhile q: t += q.popleft()\nprint(t)",
    "defaultdict and Counter": "d = defaultdict(int, Counter(a))\nprint(sum(k * d[k] for k in d))",
    "heapq": "heapify(a)\nheapq.heappush(a, 0)\nprint(sum(heappop(a) for _ in range(4)))",
    "bisect": "print(sum(a) + bisect_left(a, 0) + bisect.bisect(a, 0))",
    "copy": "b = deepcopy(a)\nb[0] = copy.copy(a)[0]\nprint(sum(b))",
    "math": "print(int(sqrt(sum(a) ** 2)) if math.gcd(4, 6) == gcd(4, 6) == 2 else inf)",
    "re": "print(sum(map(int, findall(r'\\d+', re.sub(',', ' ', str(a))))))",
    "string": "print(sum(a) if ascii_lowercase == string.ascii_lowercase else digits)",
    "json": "print(sum(loads(json.dumps(a))))",
    "random": "shuffle(a)\nrandom.seed(1)\nprint(sum(a) + 0 * randint(1, 2))",
    "statistics": "print(int(mean(a) * len(a)) if statistics.median(a) == 2 else stdev(a))",
    "itertools": "print(list(accumulate(a))[-1] if len(list(itertools.product(a, a))) == 9 else 0)",
    "functools": "@lru_cache(None)\ndef g(i): return a[i] + g(i + 1) if i < n else 0\nprint(g(0))",
    "reduce and operator": "print(reduce(add, a) if operator.mul(2, 3) == 6 else itemgetter(0)(a))",
    "datetime": "print((datetime.date(2024, 1, 7) - date(2024, 1, 1)) // timedelta(days=1))",
    "io and sys": "out = StringIO()\nout.write(str(sum(a)))\nsys.stdout.write(out.getvalue())",
    "typing": "def g(x: List[int], y: Optional[int] = None) -> int: return sum(x)\nprint(g(a))",
}

OFFICIAL: dict[str, tuple[dict[str, Any], str, str]] = {
    **{f"program with {k}": (SUM, READ + code, "correct") for k, code in _NAMES.items()},
    # Programs that read standard input.
    "main guard at the end": (
        SUM,
        "def main():\n    input()\n    print(sum(map(int, input().split())))\n\n"
        "if __name__ == '__main__':\n    main()",
        "correct",
    ),
    "main guard with double quotes": (
        SUM,
        "def main():\n    input()\n    print(sum(map(int, input().split())))\n\n"
        'if __name__ == "__main__":\n    main()\n',
        "correct",
    ),
    "exit in the middle": (SUM, READ + "print(sum(a))\nexit()\nprint(7)", "correct"),
    "exit with a status": (SUM, READ + "print(sum(a))\nsys.exit(1)", "correct"),
    "exit with a text": (SUM, READ + "print(sum(a))\nsys.exit('done')", "correct"),
    "exit without output": (SUM, "import sys\nsys.exit(1)", "wrong"),
    "raises after the output": (SUM, READ + "print(sum(a))\nraise ValueError", "error"),
    "return at the top": (SUM, READ + "print(sum(a))\nif n == 3:\n    return\nprint(7)", "correct"),
    "nonlocal at the top": (
        SUM,
        READ + "t = 0\ndef g(x):\n    nonlocal t\n    t += x\nfor x in a: g(x)\nprint(t)",
        "correct",
    ),
    "a builtin's name for its value": (SUM, READ + "sum = sum(a)\nprint(sum)", "error"),
    "reads all at once": (
        SUM,
        "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))",
        "correct",
    ),
    "reads with readline": (
        SUM,
        "import sys\ninput = sys.stdin.readline\n" + READ + "print(sum(a))",
        "correct",
    ),
    "reads with stdin.readline": (
        SUM,
        "from sys import stdin\nn = int(stdin.readline())\n"
        "print(sum(map(int, stdin.readline().split())))",
        "correct",
    ),
    "reads with readlines": (
        SUM,
        "import sys\nlines = sys.stdin.readlines()\nprint(sum(map(int, lines[1].split())))",
        "correct",
    ),
    "reads bytes": (
        SUM,
        "import sys\ndata = sys.stdin.buffer.read().split()\nprint(sum(map(int, data[1:])))",
        "correct",
    ),
    "reads beyond the end": (SUM, READ + "input()\ninput()\nprint(sum(a))", "error"),
    "asks with a prompt": (SUM, "n = input('n? ')\nprint(sum(map(int, input().split())))", "wrong"),
    "a thread with a large stack": (
        SUM,
        "import sys, threading\nsys.setrecursionlimit(10**7)\nthreading.stack_size(1 << 27)\n"
        "def main():\n    input()\n    print(sum(map(int, input().split())))\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()",
        "correct",
    ),
    "deep recursion": (
        SUM,
        READ + "def g(i): return 0 if i == 0 else 1 + g(i - 1)\nprint(sum(a) + g(9000) - 9000)",
        "correct",
    ),
    "a class at the top": (
        SUM,
        READ
        + "class T:\n    def __init__(self, a): self.a = a\n    def s(self): return sum(self.a)\n"
        "print(T(a).s())",
        "correct",
    ),
    "print of 5,001 digits": (program("", _TEN_TO_5000), "print(10**5000)", "correct"),
    "reads 5,001 digits": (program(_TEN_TO_5000, "1\n"), "print(int(input()) % 9)", "correct"),
    "print of 60,000 digits": (EMPTY, "print(10**60000)", "error"),
    "carriage returns in the code": (
        SUM,
        (READ + "print(sum(a))").replace("\n", "\r\n"),
        "correct",
    ),
    "spaces and empty lines around": (SUM, READ + "print('\\n ', sum(a), ' \\n')", "correct"),
    "an empty line within": (program("", "1\n2"), "print(1)\nprint()\nprint(2)", "wrong"),
    "a number written otherwise": (EMPTY, "print(5.0)", "correct"),
    "an exponent": (program("", "100 2"), "print('1e2 2.00')", "correct"),
    "nearly the number": (program("", "0.3"), "print(0.1 + 0.2)", "wrong"),
    "spaces within a line of numbers": (program("", "1 2"), "print('1   2')", "correct"),
    "spaces within a line of words": (program("", "a b"), "print('a   b')", "wrong"),
    "another case": (program("", "Yes"), "print('YES')", "wrong"),
    "no output": (EMPTY, "x = 5", "wrong"),
    "no Python": (EMPTY, "int main() { return 0; }", "error"),
    "indented as a whole": (EMPTY, "   print(5)", "error"),
    # Functions.
    **{
        f"function with {k}": (
            function(("[1, 2, 3]", "6")),
            method("n = len(a)\n" + code.replace("print(", "r = (") + "\nreturn r"),
            "correct",
        )
        for k, code in _NAMES.items()
        if code.count("print(") == 1
    },
    "a bare function": (THREE, "def f(a):\n    return sum(a)", "correct"),
    "a static method": (
        THREE,
        "class Solution:\n    @staticmethod\n    def f(a):\n        return sum(a)",
        "correct",
    ),
    "another name": (THREE, "def g(a):\n    return sum(a)", "error"),
    "prints of the method": (THREE, method("print('a =', a)\nreturn sum(a)"), "correct"),
    "prints without a line feed": (THREE, method("print(1, end='')\nreturn sum(a)"), "correct"),
    "prints and a wrong value": (THREE, method("print(3)\nreturn 4"), "wrong"),
    "prints and no value": (THREE, method("print(3)"), "wrong"),
    "writes to stdout": (THREE, method("sys.stdout.write('9')\nreturn sum(a)"), "correct"),
    "prints at the top": (
        THREE,
        method("return sum(a)") + "\nprint(Solution().f([1]))\n",
        "correct",
    ),
    "main guard that reads": (
        THREE,
        method("return sum(a)")
        + '\nif __name__ == "__main__":\n    print(Solution().f(list(map(int, input().split()))))',
        "correct",
    ),
    "main guard that fails": (
        THREE,
        "def f(a):\n    return sum(a)\n\nif __name__ == '__main__':\n    raise SystemExit(f(1))",
        "correct",
    ),
    "reads at the top": (THREE, "n = int(input())\ndef f(a):\n    return sum(a)", "error"),
    "NumPy whole number": (THREE, method("import numpy as np\nreturn np.sum(a)"), "correct"),
    "NumPy float": (THREE, method("import numpy as np\nreturn np.float64(3)"), "correct"),
    "NumPy truth": (
        function(("1", "true")),
        method("import numpy as np\nreturn np.bool_(a > 0)"),
        "correct",
    ),
    "list of NumPy whole numbers": (
        LIST,
        method("import numpy as np\nreturn list(np.array(a))"),
        "correct",
    ),
    "float for a whole number": (THREE, method("return sum(a) / 1"), "correct"),
    "1 for true": (function(("1", "true")), method("return a"), "correct"),
    "nearly the float": (function(("0.1", "0.3")), method("return a + 0.2"), "wrong"),
    "fraction": (THREE, method("from fractions import Fraction\nreturn Fraction(3)"), "correct"),
    "5,001 digits": (function(("1", _TEN_TO_5000)), method("return 10**5000"), "correct"),
    "wrong with 5,001 digits": (
        function(("1", _TEN_TO_5000)),
        method("return 10**5000 + 1"),
        "wrong",
    ),
    "argument of 5,001 digits": (function((_TEN_TO_5000, "1")), method("return a % 9"), "correct"),
    "tuple for the list": (LIST, method("return tuple(a)"), "correct"),
    "tuples in the list": (
        function(("[1, 2]", "[[1, 2]]")),
        method("return [tuple(a)]"),
        "wrong",
    ),
    "set for the list": (LIST, method("return set(a)"), "wrong"),
    "generator for the list": (LIST, method("return (x for x in a)"), "wrong"),
    "deque for the list": (LIST, method("return deque(a)"), "wrong"),
    "text for the number": (THREE, method("return str(sum(a))"), "wrong"),
    "keys that are numbers": (function(("1", '{"1": 2}')), method("return {1: 2}"), "wrong"),
    "a Counter for the object": (
        function(('"aab"', '{"a": 2, "b": 1}')),
        method("return Counter(a)"),
        "correct",
    ),
    "null": (function(("1", "null")), method("return None"), "correct"),
    "no value where one is wanted": (THREE, method("pass"), "wrong"),
    "raises": (THREE, method("return a[9]"), "error"),
    "exits": (THREE, method("print(3)\nexit()"), "wrong"),
}

# Ours, and the checker's.
DIFFERENT: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "stdin by name, line for line": (
        program("ab\n", "2\n"),
        "from sys import stdin\nprint(len(stdin.readline()))",
        "wrong",
        "correct",
    ),
    "readlines without line feeds": (
        program("ab\nba\n", "2\n"),
        "import sys\nprint(len(sys.stdin.readlines()[0]))",
        "wrong",
        "correct",
    ),
    "time limit caught": (
        function(("1", "2")),
        method("try:\n    while True: a = len(str(a))\nexcept Exception:\n    return 2"),
        "timeout",
        "correct",
    ),
    "global": (
        SUM,
        READ + "t = 0\ndef g(x):\n    global t\n    t += x\nfor x in a: g(x)\nprint(t)",
        "correct",
        "error",
    ),
    "main guard in the middle": (
        SUM,
        READ + "if __name__ == '__main__':\n    print(sum(a))\nx = 0",
        "correct",
        "wrong",
    ),
    "main guard the other way round": (
        SUM,
        READ + "if '__main__' == __name__:\n    print(sum(a))",
        "correct",
        "wrong",
    ),
    "lines of stdin": (
        SUM,
        "import sys\nlines = [line for line in sys.stdin]\nprint(sum(map(int, lines[1].split())))",
        "correct",
        "error",
    ),
    "open(0)": (SUM, "print(sum(map(int, open(0).read().split()[1:])))", "correct", "wrong"),
    "lines of bytes": (
        SUM,
        "import sys\ninput = sys.stdin.buffer.readline\n" + READ + "print(sum(a))",
        "correct",
        "wrong",
    ),
    "input and then the rest": (
        SUM,
        "import sys\nn = int(input())\nprint(sum(map(int, sys.stdin.read().split())))",
        "correct",
        "wrong",
    ),
    "all of stdin twice": (
        SUM,
        "import sys\nn = sys.stdin.read().split()[0]\n"
        "print(sum(map(int, sys.stdin.read().split()[1:])))",
        "wrong",
        "correct",
    ),
    "stdout by name": (
        SUM,
        "from sys import stdout\n" + READ + "stdout.write(str(sum(a)))",
        "correct",
        "wrong",
    ),
    "bytes to stdout": (SUM, READ + "sys.stdout.buffer.write(b'6')", "correct", "error"),
    "quit": (SUM, READ + "print(sum(a))\nquit()", "correct", "error"),
    "from __future__": (
        THREE,
        "from __future__ import annotations\n" + method("return sum(a)"),
        "correct",
        "error",
    ),
    "from __future__ in a program": (
        SUM,
        "from __future__ import annotations\n" + READ + "print(sum(a))",
        "correct",
        "error",
    ),
    "NumPy array": (LIST, method("import numpy as np\nreturn np.array(a)"), "wrong", "error"),
    "left over from the test before": (
        function(("[1, 2]", "3"), ("[1, 2]", "3")),
        "class Solution:\n    t = []\n    def f(self, a):\n        self.t += a\n"
        "        return sum(self.t)",
        "correct",
        "wrong",
    ),
}
