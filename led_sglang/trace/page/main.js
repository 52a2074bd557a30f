// Puts the page together: columns, selection, keys.

(function main() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs.map((run) => new Run(run));
  const texts = document.getElementById("texts");
  const detail = new Detail(document.getElementById("detail"));
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) target.pane.move(target, isIntersecting);
  }, { root: texts, rootMargin: "800px 0px" });
  const panes = runs.map((run, index) => new Pane(run, index, observer));
  let active = panes[0];

  function select(pane, i, scroll = true) {
    if (i < 0 || i >= pane.run.count) return;
    if (active !== pane) active.unselect();
    active = pane;
    texts.dataset.active = pane.index;  // a narrow window shows this side alone
    const token = pane.select(i);
    detail.show(pane.run, i);
    token.focus({ preventScroll: true });
    if (scroll) reveal(token);
  }

  // Scroll only when the token is not well inside the window.
  function reveal(token) {
    const box = texts.getBoundingClientRect(), at = token.getBoundingClientRect();
    const top = box.top + texts.firstElementChild.offsetHeight;
    if (at.top < top + 40 || at.bottom > box.bottom - 40) {
      texts.scrollTop += at.top - top - (box.bottom - top) / 3;
    }
  }

  function columns(className, fill) {
    const made = element("div", "columns " + className);
    made.style.setProperty("--runs", panes.length);
    for (const pane of panes) {
      const part = fill(pane);
      part.classList.add(`run-${pane.index}`);
      made.append(part);
    }
    texts.append(made);
  }

  function text(from, to) {
    columns("text", (pane) => {
      const column = element("div");
      pane.fill(column, from, Math.min(to, pane.run.count));
      return column;
    });
  }

  const split = data.divergence;
  columns("heads", (pane) => pane.head(select));
  if (split === null) {
    if (panes.length > 1) texts.append(element("div", "divergence", "the two runs are the same"));
    text(0, Infinity);
  } else {
    if (split > 0) text(0, split);
    texts.append(element("div", "divergence", split > 0 ? `the same up to here: ${split} token${split === 1 ? "" : "s"}` : "different from the first token"));
    text(split, Infinity);
  }

  const explored = (way) => {
    // A side without a trace has none: go on in the other one, from the same place.
    const pane = active.run.explored.length ? active : panes.find((p) => p.run.explored.length) || active;
    const from = active.selected === null ? (way > 0 ? -1 : active.run.count) : active.selected;
    select(pane, pane.run.nextExplored(from, way));
  };
  const step = (way) => select(active, active.selected === null ? 0 : active.selected + way);
  const otherSide = () => {
    const other = panes[(active.index + 1) % panes.length];
    select(other, Math.min(active.selected === null ? 0 : active.selected, other.run.count - 1));
  };
  const diverge = () => {
    if (split !== null) select(active, Math.min(split, active.run.count - 1));
  };
  const theme = () => {
    const root = document.documentElement;
    const dark = root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.style.colorScheme = dark ? "light" : "dark";
  };
  const help = () => {
    const line = document.getElementById("keys");
    line.hidden = !line.hidden;
    document.getElementById("help").setAttribute("aria-expanded", String(!line.hidden));
  };

  const keys = {
    n: () => explored(1), p: () => explored(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    a: () => detail.toggle(), s: otherSide, d: diverge, t: theme, "?": help,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  const clicks = { next: keys.n, previous: keys.p, side: otherSide, diverge, theme, help };
  for (const [id, action] of Object.entries(clicks)) document.getElementById(id).addEventListener("click", action);

  const tokenAt = (event) => event.target.closest("#texts .t");
  const paneOf = (token) => token.parentElement.pane;
  texts.addEventListener("click", (event) => {
    const token = tokenAt(event);
    if (token) select(paneOf(token), Number(token.dataset.i), false);
  });
  texts.addEventListener("mouseover", (event) => {
    const token = tokenAt(event);
    if (token) detail.show(paneOf(token).run, Number(token.dataset.i));
  });
  texts.addEventListener("mouseleave", () => {
    if (active.selected !== null) detail.show(active.run, active.selected);
  });

  document.getElementById("model").textContent = runs[0].model.split("/").pop();
  document.querySelector("#prompt p").textContent = runs[0].prompt;
  document.getElementById("diverge").hidden = split === null;
  document.getElementById("side").hidden = panes.length < 2;
  texts.dataset.active = 0;
  // Start on the first explored token: an empty panel explains nothing.
  const first = panes.find((pane) => pane.run.explored.length) || panes[0];
  if (first.run.count) select(first, first.run.explored[0] ?? 0, false);
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("led-ready")));
})();
