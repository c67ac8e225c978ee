/* Figures that move: plain SVG and range inputs, no library, no request.
   Numbers come from numbers.js, arithmetic from norms.js. */
"use strict";

const BATCH = "#0072B2", PLAIN = "#D55E00", GRAY = "#5f5f5f", INK = "#111";
const format = (value, digits = 2) =>
  (value < 0 && Math.round(-value * 10 ** digits) > 0 ? "−" : "") +
  Math.abs(value).toFixed(digits);

const superscript = (text) =>
  text.replace(/./g, (sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·"["0123456789−.".indexOf(sign)]);

/* drawing */

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "circle", "rect", "text", "image"];
  const made = svg.includes(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

class Plot {
  constructor(width, height, x, y) {
    this.width = width;
    this.height = height;
    this.box = { left: 56, right: width - 12, top: 14, bottom: height - 44 };
    const { left, right, top, bottom } = this.box;
    this.x = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (right - left);
    this.y = (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - top);
    this.svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    this.svg.append(element("rect", { width, height, fill: "#fff" }));
  }

  line(x1, y1, x2, y2, color, more = {}) {
    const ends = { x1: this.x(x1), y1: this.y(y1), x2: this.x(x2), y2: this.y(y2) };
    this.svg.append(element("line", { ...ends, stroke: color, ...more }));
  }

  dot(x, y, color, radius = 5, more = {}) {
    const at = { cx: this.x(x), cy: this.y(y), r: radius, fill: color };
    this.svg.append(element("circle", { ...at, ...more }));
  }

  star(x, y) {
    const points = [...Array(10).keys()].map((k) => {
      const radius = k % 2 ? 4 : 10, turn = (Math.PI * k) / 5;
      return `${this.x(x) + radius * Math.sin(turn)},${this.y(y) - radius * Math.cos(turn)}`;
    });
    this.svg.append(element("path", { d: `M${points.join("L")}Z`, fill: INK }));
  }

  curve(points, color) {
    const d = points.map(([x, y]) => `${this.x(x)},${this.y(y)}`).join("L");
    const style = { fill: "none", stroke: color, "stroke-width": 2 };
    this.svg.append(element("path", { d: `M${d}`, ...style }));
  }

  bar(x1, x2, height, color) {
    const place = { x: this.x(x1), y: this.y(height) };
    const size = { width: this.x(x2) - this.x(x1), height: this.y(0) - this.y(height) };
    this.svg.append(element("rect", { ...place, ...size, fill: color, stroke: "#fff" }));
  }

  text(px, py, words, anchor = "middle", more = {}) {
    const style = { x: px, y: py, "text-anchor": anchor, fill: INK, ...more };
    this.svg.append(element("text", style, words));
  }

  axes(xTicks, xLabel, yTicks, yLabel, name = (value) => String(value).replace("-", "−")) {
    const { left, right, top, bottom } = this.box;
    const stroke = { stroke: GRAY };
    const lines = [[left, bottom, right, bottom], [left, top, left, bottom]];
    for (const [x1, y1, x2, y2] of lines)
      this.svg.append(element("line", { x1, y1, x2, y2, ...stroke }));
    for (const tick of xTicks) this.text(this.x(tick), bottom + 17, name(tick));
    for (const [tick, words] of yTicks)
      this.text(left - 6, this.y(tick) + 4, words ?? name(tick), "end");
    this.text((left + right) / 2, bottom + 36, xLabel);
    if (yLabel) this.text(left + 6, top + 6, yLabel, "start");
  }
}

/* the four figures: where sliders start, what they draw, what they say */

const FIGURES = {
  scale: {
    title: "Move γ and β",
    sliders: {
      gamma: { label: "γ, the scale", min: -3, max: 3, step: 0.1, value: 1 },
      beta: { label: "β, the shift", min: -4, max: 4, step: 0.1, value: 0 },
    },
    draw({ gamma, beta }, width) {
      const y = Norms.batchnorm(NUMBERS.unit, gamma, beta);
      const counts = Array(48).fill(0);
      for (const value of y) {
        const bin = Math.floor((value + 8) * 3);
        if (bin >= 0 && bin < 48) counts[bin]++;
      }
      const plot = new Plot(width, 250, [-8, 8], [0, Math.max(32, ...counts)]);
      counts.forEach((count, k) => plot.bar(-8 + k / 3, -8 + (k + 1) / 3, count, BATCH));
      plot.line(beta, 0, beta, 32, INK, { "stroke-dasharray": "4 3" });
      plot.axes([-8, -4, 0, 4, 8], "output y of one unit", [[0], [10], [20], [30]], "images");
      const mean = Norms.mean(y), std = Math.sqrt(Norms.variance(y));
      const mirrored = gamma < 0 ? " The histogram is mirrored." : "";
      const says = `The 128 outputs have mean ${format(mean)} and standard deviation ` +
        `${format(std)}.${mirrored}`;
      return { plot, says };
    },
  },

  eps: {
    title: "Move ε",
    sliders: {
      exponent: {
        label: "ε", min: -8, max: 0, step: 0.1, value: -5,
        words: (value) => `10 to the power ${format(value, 1)}`,
        shown: (value) => `10${superscript(format(value, 1))}`,
      },
    },
    draw({ exponent }, width) {
      const eps = 10 ** exponent;
      const plot = new Plot(width, 270, [-5, 0], [0, 1.05]);
      const steps = [...Array(201).keys()].map((k) => -5 + k / 40);
      plot.line(exponent / 2, 0, exponent / 2, 1, GRAY, { "stroke-dasharray": "2 3" });
      plot.curve(steps.map((s) => [s, Norms.spreadAfter(10 ** s, eps)]), BATCH);
      const after = NUMBERS.pixel_std.map((std) => Norms.spreadAfter(std, eps));
      after.forEach((value, k) =>
        plot.dot(Math.log10(NUMBERS.pixel_std[k]), value, INK, 2, { opacity: 0.5 }));
      const power = { "-5": "10⁻⁵", "-4": "10⁻⁴", "-3": "10⁻³", "-2": "10⁻²", "-1": "0.1", 0: "1" };
      plot.axes([-5, -4, -3, -2, -1, 0], "standard deviation of a pixel, before",
        [[0, "0"], [0.5, "0.5"], [1, "1"]], "after", (tick) => power[tick]);
      const small = after.filter((value) => value < 0.9).length;
      const says = `Of ${after.length} pixels that vary, ${small} have a standard ` +
        "deviation below 0.9 after normalizing.";
      return { plot, says };
    },
  },

  coupling: {
    title: "Move the star",
    sliders: {
      moved: { label: "the star's input", min: -3, max: 7, step: 0.1, value: 1 },
    },
    draw({ moved }, width) {
      const x = [...NUMBERS.others, moved];
      const y = Norms.batchnorm(x), start = Norms.batchnorm([...NUMBERS.others, 1]);
      const plot = new Plot(width, 220, [-3, 7], [-0.25, 1.25]);
      x.forEach((before, k) => plot.line(before, 1, y[k], 0, "#999"));
      start.slice(0, 4).forEach((value) =>
        plot.dot(value, 0, "none", 6, { stroke: GRAY, "stroke-dasharray": "2 2" }));
      NUMBERS.others.forEach((before, k) => {
        plot.dot(before, 1, PLAIN);
        plot.dot(y[k], 0, BATCH);
      });
      plot.star(moved, 1);
      plot.star(y[4], 0);
      plot.axes([-2, 0, 2, 4, 6], "value", [[1, "before"], [0, "after"]]);
      const shifts = start.slice(0, 4).map((value, k) => Math.abs(y[k] - value));
      const says = `The outputs of the four other samples lie ${format(Math.min(...shifts))} ` +
        `to ${format(Math.max(...shifts))} from where they were with the star at 1 ` +
        "(dashed rings).";
      return { plot, says };
    },
  },

  modes: {
    title: "Compare the modes",
    sliders: {
      size: {
        label: "batch size in training", min: 0, max: 7, step: 1, value: 2,
        words: (value) => `${2 ** value} image${value ? "s" : ""}`,
      },
      updates: {
        label: "updates before evaluation", min: 0, max: 200, step: 5, value: 40,
        words: (value) => `${value} updates`,
      },
    },
    draw({ size, updates }, width) {
      const N = 2 ** size, digit = NUMBERS.unit[0];
      const training = NUMBERS.mates.map((mates) =>
        Norms.batchnorm([digit, ...mates.slice(0, N - 1)])[0]);
      const running = Norms.runningStatistics(NUMBERS.mu, NUMBERS.var, updates, 128);
      const [evaluation] = Norms.inference([digit], 1, 0, running.mean, running.variance);
      const plot = new Plot(width, 220, [-3, 3], [-0.25, 1.25]);
      training.forEach((y) => plot.dot(y, 1, BATCH, 6, { opacity: 0.6 }));
      plot.line(evaluation, -0.2, evaluation, 1.2, PLAIN, { "stroke-dasharray": "5 3" });
      plot.dot(evaluation, 0, PLAIN, 7);
      plot.axes([-3, -2, -1, 0, 1, 2, 3], "output for one digit",
        [[1, "train"], [0, "eval"]]);
      plot.svg.append(digitPicture(plot.box.left + 12, 66));
      const low = format(Math.min(...training)), high = format(Math.max(...training));
      const says = `Training mode, sixteen batches of ${N}: the digit's output lies between ` +
        `${low} and ${high}. Evaluation mode after ${updates} updates: ${format(evaluation)}.`;
      return { plot, says };
    },
  },
};

function digitPicture(left, top) {
  const canvas = element("canvas", { width: 28, height: 28 });
  const context = canvas.getContext("2d"), image = context.createImageData(28, 28);
  NUMBERS.digit.forEach((value, k) =>
    image.data.set([255 - value, 255 - value, 255 - value, 255], 4 * k));
  context.putImageData(image, 0, 0);
  const place = { x: left, y: top, width: 56, height: 56, href: canvas.toDataURL() };
  return element("image", { ...place, style: "image-rendering: pixelated" });
}

/* one figure on the page */

function start(holder, index) {
  const { title, sliders, draw } = FIGURES[holder.dataset.figure];
  const inputs = {};
  const drawing = element("div", { class: "drawing" });
  const says = element("p", { role: "status", class: "says" });
  const caption = element("figcaption", {}, title);
  holder.replaceChildren(caption, drawing);
  for (const [name, { label, words, shown, ...range }] of Object.entries(sliders)) {
    const id = `moving-${index}-${name}`;
    const input = element("input", { type: "range", id, ...range });
    const output = element("output", { for: id });
    inputs[name] = { input, output, words: words ?? ((value) => format(value, 1)), shown };
    holder.append(element("div", { class: "slider" },
      element("label", { for: id }, label), input, output));
    input.addEventListener("input", update);
  }
  holder.append(says);

  let timer;
  function update(event) {
    const values = {};
    for (const [name, { input, output, words, shown }] of Object.entries(inputs)) {
      values[name] = Number(input.value);
      input.setAttribute("aria-valuetext", words(values[name]));
      output.textContent = (shown ?? words)(values[name]);
    }
    const width = Math.min(640, Math.max(300, holder.clientWidth || 640));
    const result = draw(values, width);
    result.plot.svg.setAttribute("aria-label", `${title}: the drawing that is told below.`);
    drawing.replaceChildren(result.plot.svg);
    clearTimeout(timer);
    // the sentence is spoken once the slider rests, not at each step
    timer = setTimeout(() => (says.textContent = result.says), event?.type === "input" ? 400 : 0);
  }
  update();
  addEventListener("resize", update);
}

document.querySelectorAll(".moving").forEach(start);
