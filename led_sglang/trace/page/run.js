"use strict";
// One run: its columns as typed arrays, and what follows from them.

const KINDS = ["before", "untraced", "exploited", "explored", "response"];
const KIND_NAMES = { before: "before thinking", untraced: "thinking, not traced", exploited: "exploited", response: "response" };
const EXPLORED = 3;
const PHASES = ["before", "think", "response"];

function unpack(base64, Type) {
  const raw = atob(base64);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Type(bytes.buffer);
}

// Controls and direction overrides become visible signs: they must not rearrange the page.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (c) => {
    const code = c.codePointAt(0);
    if (code < 0x80) return "^" + String.fromCodePoint(code ^ 0x40);
    return "\u27e8" + code.toString(16).toUpperCase() + "\u27e9";
  });
}

class Run {
  constructor(data) {
    this.sampler = data.sampler;
    this.model = data.model;
    this.prompt = data.prompt;
    this.request = new Map(data.request);
    this.layers = data.layers;
    this.gate = data.gate;
    this.count = data.count;
    for (const name of ["ids", "candidates", "text"]) this[name] = unpack(data[name], Int32Array);
    for (const name of ["kind", "phase", "depth", "width", "rows"]) this[name] = unpack(data[name], Uint8Array);
    for (const name of ["p1", "entropy", "logprob", "explore", "draw", "q", "p"]) this[name] = unpack(data[name], Float32Array);
    this.texts = data.texts.map(visible);
    this.candidateText = new Map(data.candidateTexts);
    this.explored = [];
    // where each token's candidates and its rows of p^l begin
    this.firstCandidate = new Uint32Array(this.count + 1);
    this.firstProbability = new Uint32Array(this.count + 1);
    for (let i = 0; i < this.count; i++) {
      if (this.kind[i] === EXPLORED) this.explored.push(i);
      this.firstCandidate[i + 1] = this.firstCandidate[i] + this.width[i];
      this.firstProbability[i + 1] = this.firstProbability[i] + this.width[i] * this.rows[i];
    }
  }

  textOf(i) {
    return this.texts[this.text[i]];
  }

  // 0 at the final layer, 1 at the deepest one
  depthShare(depth) {
    return this.layers.length > 1 ? (depth - 1) / (this.layers.length - 1) : 0;
  }

  layerName(depth) {
    const layer = this.layers[depth - 1];
    return layer === null ? `depth ${depth}` : `layer ${layer}`;
  }

  // What an explored token did: a gate that opens may find no layer with more entropy.
  exploredName(depth) {
    return depth === 1 ? "explored, stayed with the final layer" : `explored at depth ${depth}, ${this.layerName(depth)}`;
  }

  // The explored token after (way = 1) or before (way = -1) token i; -1 if there is none.
  nextExplored(i, way) {
    let low = 0, high = this.explored.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.explored[middle] < i + (way > 0 ? 1 : 0)) low = middle + 1;
      else high = middle;
    }
    const found = this.explored[way > 0 ? low : low - 1];
    return found === undefined ? -1 : found;
  }

  // The step of a token: p^l, the cumulative a^l and its entropies in nats, or null.
  step(i) {
    const width = this.width[i], rows = this.rows[i];
    if (rows === 0) return null;
    const ids = this.candidates.subarray(this.firstCandidate[i], this.firstCandidate[i + 1]);
    const p = [], a = [], entropies = [];
    const sums = new Float64Array(width);
    for (let row = 0; row < rows; row++) {
      const begin = this.firstProbability[i] + row * width;
      p.push(this.p.subarray(begin, begin + width));
      p[row].forEach((value, k) => { sums[k] += value; });
      const total = sums.reduce((x, y) => x + y, 0) || 1;
      a.push(sums.map((x) => x / total));
      entropies.push(a[row].reduce((h, x) => h - (x > 0 ? x * Math.log(x) : 0), 0));
    }
    return {
      ids, p, a, entropies,
      q: this.q.subarray(this.firstCandidate[i], this.firstCandidate[i + 1]),
      texts: Array.from(ids, (id) => this.texts[this.candidateText.get(id)]),
    };
  }
}
