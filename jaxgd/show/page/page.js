// The page itself: controls, play, sorting; one Lab for each run.

class Lab {
  constructor(section, run, lines) {
    this.section = section;
    this.grid = new Grid(run);
    this.place = run.place;
    this.epoch = section.querySelector(".epoch input");
    this.record = run.paths && !this.isAway() ? run.paths.epochs.length - 1 : 0; // what ran away is best seen where it began
    this.ball = run.paths ? new Ball(section, this.grid, lines) : null;
    this.maps = new Maps(section, this.grid, (place) => this.choose(place));
    this.axes = [...section.querySelectorAll("[data-axis]")];
    for (const control of this.axes) control.addEventListener("input", () => this.moved(control));
    if (this.epoch) this.listenToTime();
  }

  isAway() {
    const { paths, outcomes } = this.grid;
    return outcomes[paths.outcome[this.grid.nearest(this.place).path]] === "diverged";
  }

  listenToTime() {
    const [play, back, step] = [".play", ".back", ".step"].map((name) => this.section.querySelector(name));
    this.play = play;
    this.epoch.addEventListener("input", () => { this.stop(); this.goTo(Number(this.epoch.value)); });
    back.addEventListener("click", () => { this.stop(); this.goTo(this.record - 1); });
    step.addEventListener("click", () => { this.stop(); this.goTo(this.record + 1); });
    play.addEventListener("click", () => (this.playing ? this.stop() : this.start()));
  }

  // The last record at which any of the balls still moves.
  end() {
    return Math.max(...this.ball.shown(this.place).map(({ path }) => this.grid.lastRecord(path)));
  }

  start() {
    this.playing = true;
    this.play.textContent = "Pause";
    this.play.setAttribute("aria-pressed", "true");
    const end = this.end(), from = this.record >= end ? 0 : this.record, rate = Math.max(8, end / 8) / 1000;
    let began = null;
    const tick = (now) => {
      if (!this.playing) return;
      began ??= now;
      const record = Math.min(end, from + Math.floor((now - began) * rate));
      if (record !== this.record) this.goTo(record);
      if (record >= end) this.stop();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  stop() {
    if (!this.playing) return;
    this.playing = false;
    this.play.textContent = "Play";
    this.play.setAttribute("aria-pressed", "false");
  }

  goTo(record) {
    this.record = Math.min(Number(this.epoch.max), Math.max(0, record));
    this.schedule();
  }

  moved(control) {
    const i = this.grid.axes.findIndex((axis) => axis.name === control.dataset.axis);
    this.choose(this.place.with(i, Number(control.value)));
  }

  choose(place, compares = false) {
    this.place = place;
    if (this.ball) this.ball.compares = compares;
    this.stale = true;
    this.schedule();
  }

  schedule() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const { grid, place, epoch } = this;
    if (this.stale) {
      for (const control of this.axes) {
        const i = grid.axes.findIndex((axis) => axis.name === control.dataset.axis);
        control.value = place[i];
        const text = grid.valueOn(i, place);
        const output = control.parentElement.querySelector("output");
        output.textContent = control.tagName === "SELECT" && text === grid.axes[i].values[place[i]] ? "" : text;
        control.setAttribute("aria-valuetext", text);
      }
      const said = [...grid.setting(place), ...figuresOf(grid, place)];
      this.section.querySelector(".figures").replaceChildren(...said.map(([name, value]) => described(name, value)));
      requestAnimationFrame(() => this.maps.draw(this.place)); // the ball first
    }
    if (this.ball) {
      this.ball.draw(place, this.record);
      if (epoch) {
        const epochs = grid.paths.epochs, text = `${epochs[this.record]} of ${epochs.at(-1)}`;
        epoch.value = this.record;
        epoch.setAttribute("aria-valuetext", `epoch ${text}`);
        epoch.parentElement.querySelector("output").textContent = text;
      }
    }
    this.stale = false;
  }

  // Draws all of it anew: at first, and when the page turns dark or light.
  build() {
    if (this.ball) this.ball.build(this.place);
    if (this.maps.root) this.maps.build(this.place);
    this.stale = true;
    this.draw();
    this.built = true;
  }
}

function described(name, value) {
  const [div, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
  [dt.textContent, dd.textContent] = [name, value];
  div.append(dt, dd);
  return div;
}

// --- tables ---

function sortable(table) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((cell, column) => cell.querySelector("button").addEventListener("click", () => {
    const down = cell.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => compared(a.cells[column].dataset.sort, b.cells[column].dataset.sort));
    body.append(...(down ? rows.reverse() : rows));
  }));
}

function compared(a, b) {
  const [x, y] = [Number(a), Number(b)], empty = Number.isNaN(x) - Number.isNaN(y);
  return Number.isNaN(x) && Number.isNaN(y) ? a.localeCompare(b) : empty || x - y;
}

// --- several runs ---

function together(div, labs, lines) {
  const traces = labs.filter((lab) => lab.ball).map((lab, i) => {
    const { grid, place, ball } = lab, { path } = grid.nearest(place), count = grid.paths.epochs.length;
    const costs = Array.from(grid.paths.cost.subarray(path * count, (path + 1) * count), (cost) => grid.above(cost));
    const dash = ["solid", "dash", "dashdot", "dot"][Math.floor(i / lines.length) % 4];
    return { type: "scatter", mode: "lines", name: plain(grid.title), x: grid.paths.epochs, y: costs, line: { color: ball.lineColour(i), dash, width: 2 }, hovertemplate: "epoch %{x}<br>%{y:.6g}<extra></extra>" };
  });
  Plotly.newPlot(div, traces, plotLayout({
    title: heading("Cost over epochs, above the minimum where it is known"), showlegend: true, legend: { orientation: "h", y: -0.22 },
    xaxis: { title: { text: "epoch" }, rangemode: "tozero" }, yaxis: { type: "log", nticks: 7 },
  }), PLOT_CONFIG);
}

// --- all of it ---

async function begin() {
  document.querySelectorAll("table.sortable").forEach(sortable);
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old for the pictures: they need one of 2023 or later.");
  const [data, source] = await Promise.all([unpacked("data"), unpacked("plotly")]);
  const script = document.createElement("script");
  script.textContent = source; // runs at once, and needs no address
  document.head.append(script);
  const { runs, lines } = JSON.parse(data, revived);
  const labs = runs.map((run) => new Lab(document.querySelector(`[data-run="${run.id}"]`), run, lines));
  const shown = (lab) => !lab.section.closest("details:not([open])");
  for (const lab of labs) {
    if (shown(lab)) lab.build();
    lab.section.closest("details")?.addEventListener("toggle", () => shown(lab) && !lab.built && lab.build());
    lab.section.parentElement.querySelectorAll("button.show").forEach((button) => button.addEventListener("click", () => {
      lab.choose(button.dataset.place.split(" ").filter(Boolean).map(Number), true);
      lab.section.scrollIntoView({ block: "start" });
    }));
  }
  const comparison = document.querySelector(".together");
  if (comparison) together(comparison, labs, lines);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const lab of labs) if (lab.built) lab.build();
    if (comparison) together(comparison, labs, lines);
  });
  document.documentElement.dataset.ready = "yes";
}

begin().catch((error) => {
  const trouble = document.getElementById("trouble");
  [trouble.hidden, trouble.textContent] = [false, `The pictures can’t be shown: ${error.message}`];
  console.error(error);
});
