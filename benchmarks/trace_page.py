"""How fast the trace viewer opens a long answer in headless Chromium.

    python benchmarks/trace_page.py --tokens 30000

Milliseconds from the start of the navigation to the first frame with the page built, and the
slowest frame while the text is scrolled from top to bottom.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "server"))

from browser import Viewer, chromium
from test_trace_page import WORDS, made_trace

from led_sglang.trace import write_page

SCROLL = """
const done = arguments[0], texts = document.getElementById("texts"), frames = [];
let last = performance.now();
texts.scrollTop = 0;
function frame(now) {
  frames.push(now - last);
  last = now;
  texts.scrollTop += texts.clientHeight;
  if (texts.scrollTop + texts.clientHeight < texts.scrollHeight - 1) requestAnimationFrame(frame);
  else done(frames);
}
requestAnimationFrame(frame);
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = write_page([made_trace(WORDS, arguments.tokens)], Path(folder) / "long.html")
        print(f"{arguments.tokens:,} tokens, {page.stat().st_size / 2**20:.1f} MiB")
        with chromium(Path(folder) / "profile") as browser:
            browser.set_script_timeout(120)
            opened, worst = [], []
            for _ in range(arguments.repeats):
                viewer = Viewer(browser, page)
                ready = "return performance.getEntriesByName('led-ready')[0].startTime"
                opened.append(viewer.script(ready))
                worst.append(max(browser.execute_async_script(SCROLL)[1:]))
            print(f"opens in {statistics.median(opened):.0f} ms (slowest {max(opened):.0f} ms)")
            print(f"slowest frame of a scroll by windows: {max(worst):.0f} ms")


if __name__ == "__main__":
    main()
