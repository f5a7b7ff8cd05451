/**
 * <credit-status>: what is left of a user's credits, as a custom element that needs no framework.
 *
 *     <script type="module" src="/static/kluisz/client/credit-status.js"></script>
 *     <credit-status></credit-status>            the viewer's own, by the page's session
 *     <credit-status user-id="…" compact refresh="60" base-url="https://…"></credit-status>
 *
 * A bearer token is given as a property (`element.token = …`), so that it stands in no markup. Colours are custom properties
 * (--credit-status-accent, -low, -out, -ink, -muted, -track), the pieces are parts (card, amount, bar, tier, note). The element
 * says "loaded" or "failed" in events of these names.
 */

import { createClient } from "./client.js";

const STYLE = `
:host { display: block; font: 14px/1.45 Inter, system-ui, sans-serif; color: var(--credit-status-ink, #0f172a); }
:host([compact]) { display: inline-block; }
:host([hidden]) { display: none; }
.card { padding: 16px 18px; border: 1px solid #e2e8f0; border-radius: 12px; background: #fff; }
:host([compact]) .card { display: flex; align-items: center; gap: 10px; padding: 5px 12px; border-radius: 999px; }
.head { display: flex; justify-content: space-between; gap: 12px; color: var(--credit-status-muted, #64748b); font-size: 13px; }
.amount { margin: 2px 0 10px; font-size: 26px; font-weight: 650; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.amount small { font-size: 14px; font-weight: 400; letter-spacing: 0; color: var(--credit-status-muted, #64748b); }
:host([compact]) .amount { margin: 0; font-size: 14px; white-space: nowrap; }
:host([compact]) .amount small { display: none; }
.bar { height: 8px; border-radius: 999px; background: var(--credit-status-track, #e2e8f0); overflow: hidden; }
:host([compact]) .bar { width: 72px; height: 6px; }
.fill { height: 100%; border-radius: inherit; background: var(--state); transition: width 300ms; }
.note { margin: 10px 0 0; font-size: 13px; color: var(--state-text, #64748b); }
:host([compact]) :is(.head, .note) { display: none; }
.card[data-state="ok"] { --state: var(--credit-status-accent, #0d9488); }
.card[data-state="low"] { --state: var(--credit-status-low, #d97706); --state-text: #92400e; }
.card[data-state="out"] { --state: var(--credit-status-out, #dc2626); --state-text: #b91c1c; }
.card[data-state="out"] .amount { color: var(--credit-status-out, #b91c1c); }
.card[data-state="loading"] .fill { width: 40%; background: #cbd5e1; animation: wait 1.2s ease-in-out infinite alternate; }
@keyframes wait { to { transform: translateX(150%); } }
@media (prefers-reduced-motion: reduce) { .fill { transition: none; animation: none !important; } }
button { flex: none; white-space: nowrap; padding: 4px 12px; border: 1px solid #cbd5e1; border-radius: 7px; background: #fff; color: inherit; font: inherit; cursor: pointer; }
button:focus-visible { outline: 2px solid #0d9488; outline-offset: 2px; }
`;

export class CreditStatusElement extends HTMLElement {
  static observedAttributes = ["user-id", "base-url", "refresh"];

  #token;
  #timer;
  #asking;

  constructor() {
    super();
    this.attachShadow({ mode: "open" });
  }

  get token() {
    return this.#token;
  }

  set token(value) {
    this.#token = value;
    if (this.isConnected) this.load();
  }

  connectedCallback() {
    this.load();
  }

  disconnectedCallback() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
  }

  attributeChangedCallback(name, before, after) {
    if (this.isConnected && before !== after) this.load();
  }

  /** Ask the server anew. The answer of an earlier question is not waited for. */
  async load() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    if (!this.shadowRoot.querySelector(".card:not([data-state=failed])")) this.#show(loading());
    const client = createClient({ baseUrl: this.getAttribute("base-url") ?? "", token: this.#token });
    try {
      const status = await client.creditStatus(this.getAttribute("user-id") || undefined, { signal: asking.signal });
      if (asking.signal.aborted) return;
      this.#show(card(status));
      this.dispatchEvent(new CustomEvent("loaded", { detail: status }));
    } catch (error) {
      if (asking.signal.aborted) return;
      this.#show(failure(error, () => this.load()));
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
    const seconds = Number(this.getAttribute("refresh"));
    if (seconds > 0) this.#timer = setTimeout(() => this.load(), 1000 * seconds);
  }

  #show(content) {
    this.shadowRoot.replaceChildren(element("style", {}, STYLE), content);
  }
}

function loading() {
  const bar = element("div", { class: "bar" }, element("div", { class: "fill" }));
  return element("div", { class: "card", "data-state": "loading", role: "status", "aria-busy": "true", "aria-label": "Loading credits" }, bar);
}

function failure(error, again) {
  const button = element("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  const text = element("p", { class: "note", style: "margin: 0 0 8px; display: block" }, `Credits are not known: ${error.message}`);
  return element("div", { class: "card", part: "card", "data-state": "failed", role: "alert" }, text, button);
}

function card(status) {
  const state = status.is_out_of_credits ? "out" : status.is_low_credits ? "low" : "ok";
  const [remaining, allocated] = [status.credits_remaining, status.credits_allocated].map(Number);
  const left = allocated > 0 ? Math.min(100, Math.max(0, (100 * remaining) / allocated)) : 0;
  const spoken = `${shown(remaining)} of ${shown(allocated)} credits left`;
  const bar = element(
    "div",
    { class: "bar", part: "bar", role: "meter", "aria-label": "Credits left", "aria-valuemin": "0", "aria-valuemax": "100",
      "aria-valuenow": String(Math.round(left)), "aria-valuetext": spoken },
    element("div", { class: "fill", style: `width: ${left.toFixed(1)}%` }),
  );
  const amount = element("div", { class: "amount", part: "amount" }, shown(remaining), element("small", {}, ` of ${shown(allocated)} credits`));
  const head = element("div", { class: "head" }, element("span", {}, "Credits left"), element("span", { part: "tier" }, status.tier_name ?? "No tier"));
  const note = noteOf(status, state);
  return element(
    "div",
    { class: "card", part: "card", "data-state": state, role: "group", "aria-label": `${spoken}. ${note}`, title: note },
    head, amount, bar, element("p", { class: "note", part: "note", role: "status" }, note),
  );
}

function noteOf(status, state) {
  if (!status.license_is_active) return "No active license: new runs are refused.";
  if (state === "out") return "Out of credits: new runs are refused.";
  const end = status.projected_exhaustion_date;
  const last = end ? ` At this pace they last until ${new Date(`${end}T12:00:00`).toLocaleDateString(undefined, { day: "numeric", month: "long" })}.` : "";
  return state === "low" ? `Running low.${last}` : last.trim() || "Enough for now.";
}

/** Whole credits; small amounts with the places that they need. */
function shown(amount) {
  return amount.toLocaleString(undefined, { maximumFractionDigits: Math.abs(amount) < 100 ? 2 : 0 });
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

if (!customElements.get("credit-status")) customElements.define("credit-status", CreditStatusElement);
