// The text of one run. A block far from the window is one bare text node; near it, one element a
// token. Both are laid out alike, so scrolling and the browser's own search stay exact.

const BLOCK_TOKENS = 200;
const LONGEST_BLOCK = 1000;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

class Pane {
  constructor(run, index, observer) {
    this.run = run;
    this.index = index;
    this.observer = observer;
    this.starts = [];
    this.blocks = [];
    this.selected = null;
    this.selectedBlock = null;
  }

  // Append the tokens of [from, to) to a column, cut at line ends where there are any.
  fill(column, from, to) {
    let begin = from;
    for (let i = from; i < to; i++) {
      const size = i - begin + 1;
      const lineEnd = this.run.textOf(i).endsWith("\n");
      if ((size >= BLOCK_TOKENS && lineEnd) || size >= LONGEST_BLOCK || i === to - 1) {
        column.append(this.block(begin, i + 1));
        begin = i + 1;
      }
    }
  }

  block(from, to) {
    const made = element("div", "block");
    Object.assign(made, { pane: this, from, to, near: false, filled: false });
    this.empty(made);
    this.starts.push(from);
    this.blocks.push(made);
    this.observer.observe(made);
    return made;
  }

  empty(block) {
    let text = "";
    for (let i = block.from; i < block.to; i++) text += this.run.textOf(i);
    block.textContent = text;
    block.filled = false;
  }

  show(block) {
    if (block.filled) return;
    const tokens = [];
    for (let i = block.from; i < block.to; i++) tokens.push(this.token(i));
    block.replaceChildren(...tokens);
    block.filled = true;
  }

  token(i) {
    const text = this.run.textOf(i);
    const kind = KINDS[this.run.kind[i]];
    const made = element("span", "t " + kind, text);
    made.dataset.i = i;
    made.tabIndex = -1;
    if (text === "") made.classList.add("nothing");
    // Where text stands before the line break, a sign would cover its first letter.
    if (text.startsWith("\n")) made.classList.add("newline");
    if (this.run.kind[i] === EXPLORED) {
      made.style.setProperty("--f", this.run.depthShare(this.run.depth[i]));
    }
    if (i === this.selected) this.mark(made);
    return made;
  }

  mark(token) {
    token.classList.add("selected");
    token.tabIndex = 0;
  }

  // A block comes near the window or leaves it; the one with the selected token stays filled.
  move(block, near) {
    block.near = near;
    if (near) this.show(block);
    else if (block !== this.selectedBlock) this.empty(block);
  }

  blockOf(i) {
    let low = 0, high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= i) low = middle;
      else high = middle - 1;
    }
    return this.blocks[low];
  }

  // Select token i; its element, which then exists.
  select(i) {
    this.unselect();
    this.selected = i;
    const block = this.selectedBlock = this.blockOf(i);
    this.show(block);
    const token = block.children[i - block.from];
    this.mark(token);
    return token;
  }

  unselect() {
    if (this.selected === null) return;
    const block = this.selectedBlock;
    const token = block.children[this.selected - block.from];
    token.classList.remove("selected");
    token.tabIndex = -1;
    this.selected = this.selectedBlock = null;
    if (!block.near) this.empty(block);
  }

  // Name, counts by kind and chosen depth, and a map of where the run explored.
  head(jump) {
    const run = this.run;
    const made = element("div", "head");
    const title = element("h2", "", run.sampler + " ");
    const thought = run.phase.reduce((n, phase) => n + (phase === 1), 0);
    title.append(element("span", "",
      `${run.count} tokens, ${thought} thinking, ${run.explored.length} explored`));
    const request = element("div", "request");
    for (const [name, value] of run.request) {
      const entry = element("span", "", `${visible(name)} `);
      entry.append(element("b", "", visible(value)));
      request.append(entry);
    }
    made.append(title, request, this.legend(), this.map(jump));
    return made;
  }

  legend() {
    const run = this.run;
    const counts = KINDS.map(() => 0);
    const depths = new Map();
    for (let i = 0; i < run.count; i++) {
      counts[run.kind[i]]++;
      if (run.kind[i] === EXPLORED) depths.set(run.depth[i], (depths.get(run.depth[i]) || 0) + 1);
    }
    const made = element("div", "legend");
    const add = (kind, label, share) => {
      const entry = element("span"), swatch = element("i", kind);
      if (share !== undefined) swatch.style.setProperty("--f", share);
      entry.append(swatch, label);
      made.append(entry);
    };
    KINDS.forEach((kind, code) => {
      if (code !== EXPLORED && counts[code]) add(kind, `${KIND_NAMES[kind]} ${counts[code]}`);
    });
    for (const depth of [...depths.keys()].sort((x, y) => x - y)) {
      const name = depth === 1 ? "explored, stayed with the final layer" : `depth ${depth}`;
      add("explored", `${name} \u00d7${depths.get(depth)}`, run.depthShare(depth));
    }
    return made;
  }

  map(jump) {
    const run = this.run;
    const made = element("div", "map");
    made.title = "where the run explored; click to go there";
    const bins = Math.min(240, run.count);
    for (let bin = 0; bin < bins; bin++) {
      const from = Math.floor(bin * run.count / bins), to = Math.floor((bin + 1) * run.count / bins);
      let hits = 0, depth = 0;
      for (let i = from; i < to; i++) {
        if (run.kind[i] === EXPLORED) { hits++; depth += run.depthShare(run.depth[i]); }
      }
      const cell = element("i", hits ? "explored" : "");
      cell.style.setProperty("--share", hits ? 0.25 + 0.75 * hits / (to - from) : 0);
      if (hits) cell.style.setProperty("--f", depth / hits);
      made.append(cell);
    }
    made.addEventListener("click", (event) => {
      const box = made.getBoundingClientRect();
      const at = Math.floor((event.clientX - box.left) / box.width * run.count);
      jump(this, Math.max(0, Math.min(run.count - 1, at)));
    });
    return made;
  }
}
