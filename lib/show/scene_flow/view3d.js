// Fills the views of a page with their points and makes the controls work. Axes in the data: x left, y up, z forward;
// on the screen: right, forward, up.
"use strict";
(() => {
  const SECONDS = 2;  // from source to target
  const CLOUDS = ["source", "target", "moving source"];

  const {floats} = orbit;

  // Points (n, 3) moved by t times their flow, as Plotly's three lists.
  function placed(points, flow, t) {
    const n = points.length / 3;
    const [x, y, z] = [new Float32Array(n), new Float32Array(n), new Float32Array(n)];
    for (let i = 0; i < n; i++) {
      const at = (k) => points[3 * i + k] + (flow ? t * flow[3 * i + k] : 0);
      x[i] = -at(0); y[i] = at(2); z[i] = at(1);
    }
    return {x: [x], y: [y], z: [z]};
  }

  // What hovering tells of each point: where it is, its flow and its length, its error.
  function told(points, flow, error) {
    return Array.from({length: points.length / 3}, (_, i) => {
      const row = Array.from(points.subarray(3 * i, 3 * i + 3));
      if (flow) row.push(...flow.subarray(3 * i, 3 * i + 3), Math.hypot(...flow.subarray(3 * i, 3 * i + 3)));
      if (error) row.push(error[i]);
      return row;
    });
  }

  function start(view, data) {
    const plot = view.querySelector(".plot"), slider = view.querySelector("input[type=range]");
    const play = view.querySelector("[data-play]"), readout = view.querySelector("output");
    const [source, flow] = [floats(data.source), floats(data.flow)];
    const target = data.target && floats(data.target), error = data.error && floats(data.error);
    const {data: traces, layout} = data.figure;
    CLOUDS.forEach((name, k) => {
      const points = name === "target" ? target : source;
      if (!points) return;
      const {x: [x], y: [y], z: [z]} = placed(points, null, 0);
      Object.assign(traces[k], {x, y, z, customdata: told(points, name !== "target" && flow, name !== "target" && error)});
    });
    const plain = traces[2].marker.color;
    const colours = {cloud: plain};
    for (const [mode, packed] of Object.entries(data.colours)) colours[mode] = orbit.colours(packed);
    traces[2].marker.color = colours.flow;
    const drawn = orbit.draw(view, traces, layout);

    function show(t) {
      slider.value = t;
      readout.textContent = `${Math.round(100 * t)} %`;
      return Plotly.restyle(plot, placed(source, flow, t), [2]);
    }

    let playing = null;
    function stop() {
      cancelAnimationFrame(playing);
      playing = null;
      play.textContent = "Play";
    }
    play.addEventListener("click", () => {
      if (playing !== null) return stop();
      const from = Number(slider.value) < 1 ? Number(slider.value) : 0;
      let began = null;
      const tick = async (now) => {
        began ??= now;
        const t = Math.min(1, from + (now - began) / 1000 / SECONDS);
        await show(t);
        if (playing === null) return;
        if (t < 1) playing = requestAnimationFrame(tick); else stop();
      };
      play.textContent = "Pause";
      playing = requestAnimationFrame(tick);
    });
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    for (const box of view.querySelectorAll("[data-cloud]"))
      box.addEventListener("change", () =>
        Plotly.restyle(plot, {visible: box.checked}, [CLOUDS.indexOf(box.dataset.cloud)]));
    view.querySelector("[data-colour]").addEventListener("change", (event) => {
      const mode = event.target.value;
      Plotly.restyle(plot, {"marker.color": [colours[mode]]}, [2]);
      for (const key of view.querySelectorAll("[data-key]")) key.hidden = key.dataset.key !== mode;
    });
    return drawn;
  }

  orbit.begin(start);
})();
