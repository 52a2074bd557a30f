// The panel of one token: what was decided, and the depth x candidate heat map.

const MAPS = { p: "p\u02e1", a: "a\u02e1 (cumulative)" };

function number(value, digits = 3) {
  if (Number.isNaN(value)) return "not recorded";
  if (value !== 0 && Math.abs(value) < 1e-6) return value < 0 ? ">-1e-6" : "<1e-6";
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits) return value.toExponential(1);
  return value.toFixed(digits);
}

function cellText(value) {
  if (value === 0) return "0";
  if (value < 1e-6) return "<1e-6";
  if (value < 0.0005) return value.toExponential(0);
  if (value >= 0.9995) return "1";
  return value.toFixed(3).slice(1);
}

// A text as a reader can see it: quotes around it, signs for blanks.
function quoted(text) {
  const made = document.createElement("q");
  made.textContent = text === "" ? "\u22ef" : text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5").replaceAll(" ", "\u00b7");
  return made;
}

class Detail {
  constructor(panel) {
    this.panel = panel;
    this.shown = "p";
    this.now = null;
  }

  toggle() {
    this.shown = this.shown === "p" ? "a" : "p";
    if (this.now) this.show(...this.now);
  }

  show(run, i) {
    this.now = [run, i];
    const title = element("h2");
    title.append(quoted(run.textOf(i)));
    const place = element("div", "what");
    place.append(this.chip(run, i), element("span", "where", `token ${i + 1} of ${run.count}, id ${run.ids[i]}`));
    this.panel.replaceChildren(title, place);
    const step = run.step(i);
    if (!step) {
      this.panel.append(element("p", "note", this.reason(run, i)));
      return;
    }
    this.panel.append(this.facts(run, i), this.gate(run, i), this.switch(), this.table(run, i, step));
    this.panel.append(element("p", "note", `${this.meaning(run)} H: entropy of a\u02e1 in nats, \u2605 where it is largest. Filled label: the row that was chosen. q: what the token was drawn from. Colour: square-root scale.`));
  }

  meaning(run) {
    if (this.shown === "a") return "a\u02e1: p summed from the final layer down to this row, normalised over the candidates.";
    if (run.request.get("normalize_layers") === "true") return "p\u02e1: each row normalised over the candidates (normalize_layers).";
    return "p\u02e1: probability over the whole vocabulary; rows are not normalised over the candidates.";
  }

  chip(run, i) {
    const kind = KINDS[run.kind[i]];
    const depth = run.depth[i];
    const label = run.kind[i] === EXPLORED ? run.exploredName(depth) : KIND_NAMES[kind];
    const made = element("span", "chip t " + kind, label);
    if (run.kind[i] === EXPLORED) made.style.setProperty("--f", run.depthShare(depth));
    return made;
  }

  reason(run, i) {
    const kind = KINDS[run.kind[i]];
    if (kind === "untraced") return `Sampler ${run.sampler} has no trace: its text and phases are all that is known.`;
    return "LED explores only while the model thinks: this token comes from the final layer alone.";
  }

  facts(run, i) {
    const made = element("dl");
    const add = (name, value) => made.append(element("dt", "", name), element("dd", "", value));
    add("top-1 p1", number(run.p1[i]));
    add("H(p\u1d38) nats", number(run.entropy[i]));
    add("P(explore)", number(run.explore[i]));
    add("gate draw", number(run.draw[i]));
    add("log q(token)", number(run.logprob[i]));
    add("chosen depth", String(run.depth[i]));
    return made;
  }

  gate(run, i) {
    const made = element("div", "gate");
    const explore = run.explore[i], draw = run.draw[i];
    if (Number.isNaN(explore) || Number.isNaN(draw)) return document.createDocumentFragment();
    const zone = element("div", "zone"), tick = element("div", "draw");
    zone.style.width = `${explore * 100}%`;
    tick.style.left = `calc(${draw * 100}% - 1px)`;
    const explored = run.kind[i] === EXPLORED;
    made.append(zone, tick, element("div", "caption",
      `gate \u201c${run.gate}\u201d drew ${number(draw)} ${explored ? "<" : "\u2265"} ${number(explore)}: ${explored ? "explore" : "exploit"}`));
    return made;
  }

  switch() {
    const made = element("div", "switch", "heat map");
    for (const key of Object.keys(MAPS)) {
      const button = element("button", "", MAPS[key]);
      button.setAttribute("aria-pressed", String(key === this.shown));
      button.addEventListener("click", () => { if (key !== this.shown) this.toggle(); });
      made.append(button);
    }
    return made;
  }

  table(run, i, step) {
    const picked = step.ids.indexOf(run.ids[i]);
    const values = step[this.shown];
    const most = Math.max(...step.entropies);
    const star = run.kind[i] === EXPLORED ? run.depth[i] : step.entropies.indexOf(most) + 1;
    const table = element("table");
    const head = element("tr");
    head.append(element("th", "", run.layers[0] === null ? "depth" : "layer"));
    step.texts.forEach((text, k) => {
      const cell = element("th", k === picked ? "picked" : "");
      const sign = quoted(text).textContent;
      const label = element("span", sign.length > 4 ? "long" : "", sign);
      label.title = `id ${step.ids[k]}`;
      cell.append(label);
      head.append(cell);
    });
    head.append(element("th", "", "H"));
    const header = element("thead");
    header.append(head);
    const body = element("tbody");
    values.forEach((row, r) => {
      const depth = r + 1;
      const line = this.line(run, row, step, picked, `${depth === star ? "\u2605 " : ""}${run.layers[r] ?? depth}`, depth);
      if (depth === run.depth[i]) line.classList.add("chosen");
      const entropy = element("td", "entropy", number(step.entropies[r], 2));
      entropy.dataset.value = step.entropies[r];
      entropy.style.setProperty("--v", most > 0 ? step.entropies[r] / most : 0);
      line.append(entropy);
      body.append(line);
    });
    const drawn = this.line(run, step.q, step, picked, "q", "q");
    drawn.classList.add("drawn");
    body.append(drawn);
    table.append(header, body);
    const wide = element("div", "wide");
    wide.append(table);
    return wide;
  }

  line(run, row, step, picked, label, key) {
    const line = element("tr");
    line.append(element("th", "", label));
    row.forEach((value, k) => {
      const cell = element("td", "cell" + (k === picked ? " picked" : ""), cellText(value));
      cell.dataset.row = key;
      cell.dataset.id = step.ids[k];
      cell.dataset.value = value;
      cell.title = `${label}, ${quoted(step.texts[k]).textContent}: ${value}`;
      cell.style.setProperty("--v", Math.sqrt(value) * 0.9);
      line.append(cell);
    });
    return line;
  }
}
