// The cost surface with the ball and its path, and the cost over epochs beside it.

const MOST_BALLS = 7; // side by side, one for each name

class Ball {
  constructor(section, grid, lines) {
    [this.grid, this.lines] = [grid, lines];
    [this.surface, this.curve] = [".surface", ".curve"].map((name) => section.querySelector(name));
    [this.surfaceNote, this.pathNote] = [".surface-note", ".path-note"].map((name) => section.querySelector(name));
    this.ground = grid.surface;
    this.compares = true; // at first each name at its best; side by side at one setting once that is chosen
    const away = grid.paths.outcome.every((code) => grid.outcomes[code] === "diverged"); // then they are all there is to see
    this.log = grid.height.log || (away && grid.paths.cost.every((cost) => !(cost <= 0)));
    this.top = away ? Infinity : grid.height.top * (this.log ? 10 : 1);
    if (!this.ground) {
      this.surface.parentElement.remove();
      this.surface = null;
      section.querySelector(".ball").style.gridTemplateColumns = "minmax(0, 1fr)";
    } else {
      this.flat = !this.ground.y;
      this.range = this.ground.range;
      if (!this.flat) this.surface.addEventListener("keydown", (event) => this.turn(event));
    }
  }

  // One ball for each optimizer (or other name), or one alone: {name, colour, path, own}.
  shown(place) {
    const { names, axes } = this.grid;
    if (names < 0) return [{ name: "", colour: colourOf("ball"), ...this.grid.nearest(place) }];
    const all = axes[names].values.map((name, i) => ({ name, i }));
    const some = all.filter(({ i }) => i < MOST_BALLS || i === place[names]).slice(-MOST_BALLS);
    const bests = this.compares ? this.bests(place) : new Map();
    return some.map(({ name, i }, row) => ({
      name,
      colour: this.lineColour(row),
      chosen: i === place[names],
      ...(bests.has(i) ? { path: bests.get(i), own: true, best: true } : this.grid.nearest(place.with(names, i))),
    }));
  }

  // If the lane that is shown is the best of its name, the others at their best too: name → path.
  bests(place) {
    const { names, paths } = this.grid, { path, own } = this.grid.nearest(place), found = new Map();
    if (own && paths.best[path]) paths.lanes.forEach((lane, other) => paths.best[other] && found.set(lane[names], other));
    return found;
  }

  lineColour(row) {
    const colour = this.lines[row % this.lines.length];
    return colour === "#000000" ? colourOf("ink") : colour;
  }

  count(place) {
    return this.shown(place).length;
  }

  // --- heights ---

  // A cost as it is drawn: itself, or its logarithm above the lowest.
  height(cost) {
    const { log, base, least } = this.ground;
    return log ? Math.log10(Math.max(cost - base, least)) : cost;
  }

  span() {
    return this.range[1] - this.range[0];
  }

  // The surface under a point, between the points where it is known.
  under(u, v) {
    const { x, y, height } = this.ground;
    const [i, a] = between(x, u), [j, b] = between(y, v);
    const at = (row, column) => height[row * x.length + column];
    return (1 - b) * ((1 - a) * at(j, i) + a * at(j, i + 1)) + b * ((1 - a) * at(j + 1, i) + a * at(j + 1, i + 1));
  }

  // --- the plots ---

  build(place) {
    const balls = this.shown(place);
    if (this.surface) Plotly.newPlot(this.surface, this.flat ? this.flatTraces(balls) : this.solidTraces(balls), this.surfaceLayout(), PLOT_CONFIG);
    const traces = balls.flatMap((ball) => [
      { type: "scatter", mode: "lines", x: [], y: [], line: { color: ball.colour, width: widthOf(ball) }, name: plain(ball.name), hovertemplate: "epoch %{x}<br>%{y:.6g}<extra></extra>" },
      { type: "scatter", mode: "markers", x: [], y: [], marker: { color: ball.colour, size: 11, line: { color: colourOf("panel"), width: 2 } }, cliponaxis: false, showlegend: false, hoverinfo: "skip" },
    ]);
    const { log } = this, range = this.costRange();
    Plotly.newPlot(this.curve, traces, plotLayout({
      title: heading(log && this.grid.minimum ? "Cost above the minimum" : "Cost over epochs"),
      xaxis: { title: { text: "epoch" }, range: [0, this.settled(balls)] },
      yaxis: { type: log ? "log" : "linear", nticks: 7, range },
      annotations: range ? [] : [{ text: "no finite cost", xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false }],
      showlegend: balls.length > 1,
      legend: { x: 1, xanchor: "right", y: 1, yanchor: "top", bgcolor: "rgba(0,0,0,0)", font: { size: 11 } },
    }), PLOT_CONFIG);
    this.built = balls.length;
    this.rolled = this.onCurves = null;
  }

  solidTraces(balls) {
    const { lines } = this.ground;
    const contours = { type: "scatter3d", mode: "lines", x: lines.x, y: lines.y, z: lines.z.map((z) => z + 0.006 * this.span()), line: { color: "rgba(255,255,255,0.45)", width: 1.5 }, hoverinfo: "skip" };
    const pairs = balls.flatMap((ball) => [
      { type: "scatter3d", mode: "lines", x: [], y: [], z: [], line: { color: ball.colour, width: 6 }, hoverinfo: "skip" },
      { type: "scatter3d", mode: "markers", x: [], y: [], z: [], marker: { color: ball.colour, size: 8, line: { color: "#ffffff", width: 1.5 } }, hoverinfo: "skip" },
    ]);
    return [this.mesh(), contours, this.minima(), ...pairs];
  }

  // The surface as triangles: plotly redraws them with every move of the ball, and is quicker at it than with a surface.
  mesh() {
    const { x, y, height } = this.ground, wide = x.length;
    const mesh = { x: [], y: [], z: [], i: [], j: [], k: [] };
    for (let at = 0; at < height.length; at += 1) {
      const row = Math.floor(at / wide), column = at % wide, corners = [at - wide - 1, at - wide, at - 1, at];
      mesh.x.push(x[column]);
      mesh.y.push(y[row]);
      mesh.z.push(height[at]);
      if (!row || !column || corners.some((corner) => Number.isNaN(height[corner]))) continue;
      mesh.i.push(corners[0], corners[0]);
      mesh.j.push(corners[1], corners[3]);
      mesh.k.push(corners[3], corners[2]);
    }
    return {
      type: "mesh3d", ...mesh, intensity: mesh.z, colorscale: "Viridis", showscale: false, hoverinfo: "skip",
      lighting: { ambient: 0.75, diffuse: 0.5, specular: 0.06, roughness: 0.9 }, lightposition: { x: -1e4, y: -1e4, z: 2e4 },
    };
  }

  // The known minima, on the ground.
  minima() {
    const { x, y, cost } = this.ground.minima, heights = Array.from(cost, (c) => this.height(c));
    const marker = { symbol: this.flat ? "star" : "diamond", size: this.flat ? 11 : 4, color: colourOf("panel"), line: { color: colourOf("ink"), width: 1.5 } };
    if (this.flat) return { type: "scatter", mode: "markers", x, y: heights, marker, hoverinfo: "skip" };
    return { type: "scatter3d", mode: "markers", x, y, z: heights.map((z) => z + 0.02 * this.span()), marker, hoverinfo: "skip" };
  }

  flatTraces(balls) {
    const { x, height } = this.ground;
    const valley = { type: "scatter", mode: "lines", x, y: height, line: { color: colourOf("quiet"), width: 2.5 }, hoverinfo: "skip" };
    const pairs = balls.flatMap((ball) => [
      { type: "scatter", mode: "lines+markers", x: [], y: [], line: { color: ball.colour, width: 1.2 }, marker: { size: 4, color: ball.colour }, opacity: 0.75, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x: [], y: [], marker: { color: ball.colour, size: 16, line: { color: colourOf("panel"), width: 2 } }, hoverinfo: "skip" },
    ]);
    return [valley, this.minima(), ...pairs];
  }

  surfaceLayout() {
    const { x, y, labels } = this.ground;
    const title = heading(this.flat ? "The cost, and the ball on it" : `The cost surface${this.ground.log ? ", in powers of ten above its lowest" : ""}`);
    if (this.flat) return plotLayout({ title, xaxis: { title: { text: plain(labels[0]) }, range: [x[0], x.at(-1)] }, yaxis: { title: { text: "cost" }, range: this.range } });
    const [quiet, line] = ["quiet", "line"].map(colourOf);
    const axis = (text, range) => ({ title: { text: plain(text) }, range, color: quiet, gridcolor: line, zerolinecolor: line, showbackground: false, showspikes: false, nticks: 6 });
    const z = axis("cost", this.range);
    if (this.ground.log) Object.assign(z, this.powersOfTen());
    const far = Math.max(...labels.map(({ length }) => length)) > 8 || this.surface.clientWidth < 600 ? 1.15 : 1; // labels hang out
    return plotLayout({
      title, dragmode: "turntable", margin: { l: 0, r: 0, t: 30, b: 0 }, uirevision: "kept",
      scene: {
        xaxis: axis(labels[0], [x[0], x.at(-1)]), yaxis: axis(labels[1], [y[0], y.at(-1)]), zaxis: z,
        aspectmode: "manual", aspectratio: { x: 1.15, y: 1.15, z: 0.7 }, camera: { eye: { x: -far, y: -1.15 * far, z: 1.3 * far }, center: { x: 0, y: 0, z: -0.18 * far } },
      },
    });
  }

  powersOfTen() {
    const [low, high] = this.range.map(Math.floor), step = Math.max(1, Math.ceil((high - low) / 5));
    const tickvals = [];
    for (let power = low + 1; power <= high; power += step) tickvals.push(power);
    return { tickvals, ticktext: tickvals.map((power) => (power < 0 || power > 4 ? `10<sup>${power}</sup>` : String(10 ** power))) };
  }

  // --- what moves ---

  // Draws every ball at a record, and its path up to it. What is there already stays: to draw the surface takes longest.
  draw(place, record) {
    const balls = this.shown(place);
    if (balls.length !== this.built) this.build(place);
    const paths = balls.map(({ path }) => path).join(), rolled = `${paths} at ${record}`;
    const epochs = this.grid.paths.epochs, count = epochs.length;
    const marks = { x: [], y: [] }, curves = { x: [], y: [] }, trails = { x: [], y: [], z: [] }, heads = { x: [], y: [], z: [] };
    let away = false;
    for (const ball of balls) {
      const now = Math.min(record, this.grid.lastRecord(ball.path));
      const costs = this.grid.paths.cost.subarray(ball.path * count, (ball.path + 1) * count);
      const drawn = Array.from(costs, (cost) => this.drawnCost(cost));
      curves.x.push(epochs);
      curves.y.push(drawn);
      marks.x.push([epochs[now]]);
      marks.y.push([drawn[now]]);
      if (this.surface) {
        const trail = this.trail(ball.path, now);
        for (const key of ["x", "y", "z"]) {
          trails[key].push(trail[key]);
          heads[key].push(trail[key].slice(-1));
        }
        if (heads.z.at(-1)[0] !== null) heads.z.at(-1)[0] += 0.03 * this.span(); // a ball lies on the surface, not in it
        away ||= trail.x.at(-1) === null;
      }
    }
    const odds = balls.map((_, i) => 2 * i + 1);
    const widths = balls.map(widthOf), drawn = `${paths}; ${widths}`;
    if (drawn !== this.onCurves) {
      const both = (key) => curves[key].flatMap((curve, i) => [curve, marks[key][i]]); // each ball's trace follows its curve's
      Plotly.update(this.curve, { x: both("x"), y: both("y"), "line.width": widths.flatMap((width) => [width, 0]) }, { "xaxis.range": [0, this.settled(balls)] });
    } else if (rolled !== this.rolled) Plotly.restyle(this.curve, marks, odds);
    if (this.surface && rolled !== this.rolled) this.drawOnSurface(trails, heads, balls.length);
    [this.onCurves, this.rolled] = [drawn, rolled];
    this.say(place, record, balls, away);
  }

  drawOnSurface(trails, heads, count) {
    const update = { x: [], y: [], z: [] }, traces = [], first = this.flat ? 2 : 3; // after the ground, its contours and its minima
    for (let i = 0; i < count; i += 1) {
      for (const key of ["x", "y", "z"]) update[key].push(trails[key][i], heads[key][i]);
      traces.push(first + 2 * i, first + 1 + 2 * i);
    }
    if (this.flat) delete update.z;
    Plotly.restyle(this.surface, update, traces);
  }

  // One range for every path of the run, so that what moves is the path; what runs away leaves it.
  costRange() {
    const { log, top } = this;
    let [low, high] = [Infinity, -Infinity];
    for (const value of this.grid.paths.cost) {
      const cost = this.drawnCost(value);
      if (cost === null) continue;
      [low, high] = [Math.min(low, cost), Math.max(high, Math.min(cost, top))];
    }
    if (!(high >= low)) return undefined;
    if (log) return [Math.log10(low) - 0.3, Math.log10(Math.max(high, 1.5 * low)) + 0.3];
    const room = 0.06 * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  }

  // Up to which epoch to look, a round number: beyond it none of the paths moves to speak of.
  settled(balls) {
    const { epochs, cost } = this.grid.paths, count = epochs.length, last = epochs.at(-1);
    let until = 0;
    for (const { path } of balls) {
      const drawn = Array.from(cost.subarray(path * count, (path + 1) * count), (c) => this.drawnCost(c)).map((c) => (c !== null && this.log ? Math.log10(c) : c));
      const seen = drawn.filter((c) => c !== null), now = this.grid.lastRecord(path);
      const apart = 0.02 * (Math.max(...seen) - Math.min(...seen));
      let record = now;
      while (record > 0 && (drawn[record] === null || Math.abs(drawn[record] - seen.at(-1)) <= apart)) record -= 1;
      until = Math.max(until, epochs[Math.min(now, record + 1)]);
    }
    for (let tens = 10; tens < last; tens *= 10) for (const round of [tens, 2 * tens, 5 * tens]) if (round >= 1.2 * until && round < last) return round;
    return last;
  }

  drawnCost(cost) {
    if (!this.log) return Number.isFinite(cost) ? cost : null;
    return this.grid.above(cost);
  }

  // The path up to a record, on the surface; gaps where it is out of the picture.
  trail(path, now) {
    const { paths } = this.grid, count = paths.epochs.length, { x, y } = this.ground;
    const found = { x: [], y: [], z: [] };
    const lift = 0.012 * this.span(); // above the triangles
    for (let record = 0; record <= now; record += 1) {
      const at = path * count + record, [u, v] = paths.position.map((along) => along[at]);
      const cost = this.height(paths.cost[at]);
      const inside = u >= x[0] && u <= x.at(-1) && (this.flat || (v >= y[0] && v <= y.at(-1))) && cost <= this.range[1] && Number.isFinite(cost);
      const height = inside && !this.flat ? Math.max(this.ground.exact ? this.under(u, v) : -Infinity, cost) + lift : cost;
      found.x.push(inside ? u : null);
      found.y.push(inside ? (this.flat ? cost : v) : null);
      found.z.push(inside ? height : null);
    }
    return found;
  }

  // --- what is said ---

  say(place, record, balls, away) {
    const { paths, outcomes } = this.grid, epochs = paths.epochs;
    const chosen = balls.find((ball) => ball.chosen !== false), now = Math.min(record, this.grid.lastRecord(chosen.path));
    const at = chosen.path * epochs.length + now;
    const values = paths.params.map(({ name, values }) => `${name} = ${figure(values[at])}`);
    const cost = [`cost = ${figure(paths.cost[at])}`, ...values].join(", ");
    const labels = Object.entries(paths.labels).map(([name, column]) => [name, column[chosen.path]]);
    const words = labels.filter(([, v]) => v !== "" && !Number.isNaN(v)).map(([name, v]) => `${name} = ${typeof v === "number" ? figure(v) : v}`);
    const others = balls.length > 1 && chosen.best ? " The others are at their best too." : "";
    const whose = chosen.own
      ? balls.length > 1 || words.length ? `This lane’s own path.${others} ` : ""
      : `This lane’s path was not stored; shown is the nearest that was, ${words.join(", ")} (${outcomes[paths.outcome[chosen.path]]}). `;
    this.pathNote.textContent = `${whose}Epoch ${epochs[now]}: ${cost}.`;
    if (this.surface) {
      const gone = balls.length > 1 ? "A ball is out of the picture here. " : "The ball is out of the picture here. ";
      this.surfaceNote.textContent = (away ? gone : "") + this.ground.note;
    }
  }

  turn(event) {
    const turned = { ArrowLeft: [-1, 0, 1], ArrowRight: [1, 0, 1], ArrowUp: [0, 1, 1], ArrowDown: [0, -1, 1], "+": [0, 0, 0.9], "=": [0, 0, 0.9], "-": [0, 0, 1 / 0.9] }[event.key];
    if (!turned) return;
    event.preventDefault();
    const { x, y, z } = this.surface.layout.scene.camera.eye, [around, up, nearer] = turned;
    const radius = Math.hypot(x, y, z) * nearer, angle = Math.atan2(y, x) + around * 0.12;
    const rise = Math.min(1.5, Math.max(-0.2, Math.asin(z / Math.hypot(x, y, z)) + up * 0.1));
    const eye = { x: radius * Math.cos(rise) * Math.cos(angle), y: radius * Math.cos(rise) * Math.sin(angle), z: radius * Math.sin(rise) };
    Plotly.relayout(this.surface, { "scene.camera.eye": eye });
  }
}

// The one that is chosen stands out.
function widthOf({ chosen }) {
  return chosen === false ? 1.5 : 3;
}

// Between which two of sorted values another lies, and how far along.
function between(values, value) {
  let low = 0, high = values.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (values[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return [low, Math.min(1, Math.max(0, (value - values[low]) / (values[low + 1] - values[low] || 1)))];
}
