// The slider over the steps of a run: each kind of sheet shows the latest one that was drawn by the chosen step.

const slider = document.querySelector("input[data-steps]");
const steps = slider?.dataset.steps.split(",").map(Number);

slider?.addEventListener("input", () => {
  const step = steps[slider.value];
  document.getElementById("step").textContent = step.toLocaleString("en");
  const run = new URLSearchParams({ run: document.querySelector("[data-run]").dataset.run });
  for (const image of document.querySelectorAll("img[data-kind]")) {
    const known = image.dataset.known.split(",").map(Number);
    const shown = known.filter((one) => one <= step).at(-1) ?? known[0];
    image.src = `/runs/sheets/step-${String(shown).padStart(8, "0")}-${image.dataset.kind}.png?${run}`;
  }
});
