// The bar of filters: options send themselves, and names are found while they are typed. Choosing one
// leads to the page's own address with that filter added.
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll("[data-without-script]")) button.hidden = true;
  for (const form of document.querySelectorAll("[data-sends-itself]")) {
    form.addEventListener("change", () => {
      // What is left at its usual value needs no place in the address.
      for (const field of form.elements) field.disabled = field.value === "";
      form.submit();
    });
  }
  for (const form of document.querySelectorAll("[data-finds]")) findNames(form);
});

function findNames(form) {
  const of = form.querySelector("[data-of]");
  const input = form.querySelector("input[type=search]");
  const list = form.querySelector("[role=listbox]");
  let asked = 0;
  let timer;
  // Enter, pressed before the answer is there, means its first one.
  let takesFirst = false;

  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const open = () => {
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
  };
  const mark = (option) => {
    for (const one of list.children) one.setAttribute("aria-selected", String(one === option));
    input.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  };
  const choose = (option) => {
    const address = new URL(location.href);
    const parameter = of.selectedOptions[0].dataset.parameter;
    if (!address.searchParams.getAll(parameter).includes(option.dataset.value)) {
      address.searchParams.append(parameter, option.dataset.value);
    }
    location.assign(address);
  };
  const say = (words) => {
    const said = document.createElement("li");
    said.textContent = words;
    said.className = "kz-soft";
    list.replaceChildren(said);
    open();
  };
  const show = (results) => {
    if (!results.length) {
      say("Nobody and nothing is called so.");
      return;
    }
    list.replaceChildren(
      ...results.map((one, place) => {
        const option = document.createElement("li");
        option.id = `kz-found-${place}`;
        option.setAttribute("role", "option");
        option.dataset.value = one.value;
        option.textContent = one.label;
        if (one.detail) {
          const detail = document.createElement("small");
          detail.textContent = one.detail;
          option.append(" ", detail);
        }
        option.addEventListener("mousedown", (event) => event.preventDefault());
        option.addEventListener("click", () => choose(option));
        return option;
      }),
    );
    open();
    if (takesFirst) choose(list.firstElementChild);
  };
  const find = async () => {
    const number = ++asked;
    const query = new URLSearchParams({ of: of.value, q: input.value });
    if (form.dataset.tenant && of.value !== "tenant") query.set("tenant_id", form.dataset.tenant);
    const answer = await fetch(`${form.dataset.finds}?${query}`, { credentials: "same-origin" });
    const found = answer.ok ? (await answer.json()).results : null;
    if (number !== asked) return;
    if (found) show(found);
    else say(`The server answered ${answer.status}: try again.`);
  };
  input.addEventListener("input", () => {
    // What was found for another text is not to be chosen from.
    asked += 1;
    takesFirst = false;
    list.replaceChildren();
    close();
    clearTimeout(timer);
    timer = setTimeout(find, 120);
  });
  input.addEventListener("focus", find);
  input.addEventListener("blur", close);
  of.addEventListener("change", () => input.focus());
  input.addEventListener("keydown", (event) => {
    const options = [...list.querySelectorAll("[role=option]")];
    const at = options.findIndex((one) => one.getAttribute("aria-selected") === "true");
    if (event.key === "Escape") close();
    if (event.key === "ArrowDown" && options.length) mark(options[(at + 1) % options.length]);
    if (event.key === "ArrowUp" && options.length) mark(options.at(at < 1 ? -1 : at - 1));
    if (event.key === "Enter" && options.length) choose(options[Math.max(at, 0)]);
    else if (event.key === "Enter") takesFirst = true;
    if (["ArrowDown", "ArrowUp", "Enter"].includes(event.key)) event.preventDefault();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}
