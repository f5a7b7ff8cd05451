// Draws every figure of the page: <div data-figure="ID"> from the JSON in <script id="ID">.
document.addEventListener("DOMContentLoaded", () => {
  const options = { responsive: true, displayModeBar: false };
  for (const place of document.querySelectorAll("[data-figure]")) {
    const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    Plotly.newPlot(place, figure.data, figure.layout, options);
  }
});
