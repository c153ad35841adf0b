// What the 3-D views of all tasks share: unpacking, cameras, and beginning a view when it comes into sight.
// On the screen: x right, y forward, z up.
"use strict";
const orbit = (() => {
  const CAMERAS = {
    sensor: {eye: {x: 0, y: -1.7, z: 0.75}, center: {x: 0, y: 0, z: -0.14}, up: {x: 0, y: 0, z: 1}},
    above: {eye: {x: 0, y: -0.01, z: 2.1}, center: {x: 0, y: 0, z: 0}, up: {x: 0, y: 1, z: 0}},
  };
  const CONFIG = {displaylogo: false, responsive: true, scrollZoom: true,
                  modeBarButtons: [["toImage", "zoom3d", "pan3d", "orbitRotation", "resetCameraDefault3d"]]};

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const colours = (text) => {
    const rgb = bytes(text);
    return Array.from({length: rgb.length / 3}, (_, i) => `rgb(${rgb.subarray(3 * i, 3 * i + 3).join()})`);
  };

  // Draws the traces into a view, as the sensor sees them, and makes the camera buttons work.
  function draw(view, traces, layout) {
    const plot = view.querySelector(".plot");
    layout.scene.camera = CAMERAS.sensor;
    for (const button of view.querySelectorAll("[data-camera]"))
      button.addEventListener("click", () => Plotly.relayout(plot, {"scene.camera": CAMERAS[button.dataset.camera]}));
    return Plotly.newPlot(plot, traces, layout, CONFIG);
  }

  // Drawing takes a moment and memory: start(view, its data) is called when a view is about to come into sight.
  function begin(start) {
    const watcher = new IntersectionObserver((entries) => {
      for (const {target: view} of entries.filter((entry) => entry.isIntersecting)) {
        watcher.unobserve(view);
        start(view, JSON.parse(view.querySelector("script").textContent)).then(() => view.dataset.drawn = "yes");
      }
    }, {rootMargin: "200px"});
    for (const view of document.querySelectorAll(".view")) watcher.observe(view);
  }

  return {bytes, floats, colours, draw, begin};
})();
