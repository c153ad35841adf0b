// Fills the views of a page with points and boxes and makes the controls work. Axes in the data: x ahead, y left, z up;
// on the screen: right, ahead, up. Traces: points, then outline and faces of the ground truth, then of each class.
"use strict";
(() => {
  const PLACES = 10;  // of a box: 8 corners, and the ends of the line to its front

  const screen = (values, i) => [-values[3 * i + 1], values[3 * i], values[3 * i + 2]];

  // The chosen boxes as Plotly's lists: (the outlines, broken by null between lines; the faces' triangles).
  function drawn(boxes, chosen, lines, faces) {
    const outline = {x: [], y: [], z: []}, solid = {x: [], y: [], z: [], i: [], j: [], k: [], text: []};
    const add = (to, [x, y, z]) => { to.x.push(x); to.y.push(y); to.z.push(z); };
    for (const box of chosen) {
      for (const [from, to] of lines) {
        add(outline, screen(boxes.places, PLACES * box + from));
        add(outline, screen(boxes.places, PLACES * box + to));
        add(outline, [null, null, null]);
      }
      const first = solid.x.length;
      for (let corner = 0; corner < 8; corner++) {
        add(solid, screen(boxes.places, PLACES * box + corner));
        solid.text.push(boxes.told[box]);
      }
      for (const [a, b, c] of faces) { solid.i.push(first + a); solid.j.push(first + b); solid.k.push(first + c); }
    }
    return [outline, solid];
  }

  function start(view, data) {
    const plot = view.querySelector(".plot"), slider = view.querySelector("input[type=range]");
    const readout = view.querySelector("output"), truthBox = view.querySelector("[data-truth]");
    const {data: traces, layout} = data.figure;
    for (const boxes of [data.found, data.truth]) if (boxes) boxes.places = orbit.floats(boxes.places);

    const points = orbit.floats(data.points), places = {x: [], y: [], z: []}, told = [];
    for (let i = 0; i < points.length / 3; i++) {
      const [x, y, z] = screen(points, i);
      places.x.push(x); places.y.push(y); places.z.push(z);
      told.push(Array.from(points.subarray(3 * i, 3 * i + 3)));
    }
    Object.assign(traces[0], places, {customdata: told});
    const colours = Object.fromEntries(
      Object.entries(data.colours).map(([mode, packed]) => [mode, orbit.colours(packed)]));
    traces[0].marker.color = colours.height;

    // The pairs of traces of each class at the slider's score.
    function atThreshold() {
      const least = Number(slider.value);
      const kept = data.found.scores.map((score, i) => i).filter((i) => data.found.scores[i] >= least);
      readout.textContent = `${least.toFixed(2)}: ${kept.length} of ${data.found.scores.length} boxes`;
      return data.classes.flatMap((name, label) =>
        drawn(data.found, kept.filter((i) => data.found.labels[i] === label), data.lines, data.faces));
    }
    if (data.truth) {
      const all = data.truth.scores.map((score, i) => i);
      data.truth.told = data.truth.told.map((text) => `ground truth: ${text}`);
      drawn(data.truth, all, data.lines, data.faces).forEach((lists, k) => Object.assign(traces[1 + k], lists));
    }
    atThreshold().forEach((lists, k) => Object.assign(traces[3 + k], lists));

    slider.addEventListener("input", () => {
      const lists = atThreshold();
      for (const [first, keys] of [[0, "xyz"], [1, ["x", "y", "z", "i", "j", "k", "text"]]]) {
        const which = data.classes.map((name, label) => 2 * label + first);
        const change = Object.fromEntries([...keys].map((key) => [key, which.map((k) => lists[k][key])]));
        Plotly.restyle(plot, change, which.map((k) => 3 + k));
      }
    });
    if (truthBox)
      truthBox.addEventListener("change", () => Plotly.restyle(plot, {visible: truthBox.checked}, [1, 2]));
    view.querySelector("[data-colour]").addEventListener("change", (event) =>
      Plotly.restyle(plot, {"marker.color": [colours[event.target.value]]}, [0]));
    return orbit.draw(view, traces, layout);
  }

  orbit.begin(start);
})();
