/** The client, the hooks and the element against a running server, whose address and tokens are in the environment. */

import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { cleanup, renderHook, waitFor } from "@testing-library/react";
import { createElement } from "react";
import { afterEach, describe, expect, test } from "vitest";
import { createClient, KluiszError } from "../../static/kluisz/client/client.js";
import "../../static/kluisz/client/credit-status.js";
import * as hooks from "../../static/kluisz/client/hooks.js";

const { KLUISZ_URL: baseUrl, KLUISZ_ADMIN: admin, KLUISZ_USER: user, KLUISZ_POOR: poor, KLUISZ_TENANT: tenant } = process.env;
const period = { start_date: "2026-11-01", end_date: "2026-11-30" };
const asAdmin = createClient({ baseUrl, token: admin });
const asUser = createClient({ baseUrl, token: user });

afterEach(() => {
  cleanup();
  document.body.replaceChildren();
});

describe("the client", () => {
  test("asks each endpoint and hands back its answer", async () => {
    const stats = await asAdmin.platformStats(period);
    expect(stats.total_traces).toBe(6);
    expect(stats.total_cost_usd).toBe("1.830600000000");
    expect((await asAdmin.tenantStats(tenant, period)).name).toBe("Acme");
    expect((await asUser.userStats("me", period)).username).toBe("ann");
    expect((await asAdmin.topUsers({ ...period, metric: "cost", limit: 1 })).results.map((one) => one.username)).toEqual(["gus"]);
    expect((await asAdmin.topTenants(period)).results).toHaveLength(2);
    expect((await asAdmin.anomalies(period)).results).toEqual([]);
    expect((await asAdmin.sources(period)).totals.calls).toBe(6);
    expect((await asAdmin.unknownNames()).results).toEqual([]);
    const runs = await asUser.traces(period);
    expect(runs.results).toHaveLength(2);
    expect((await asUser.trace(runs.results[0].trace_id)).observations).toHaveLength(2);
  });

  test("repeats a parameter for any of", async () => {
    const { series } = await asAdmin.timeSeries({ ...period, granularity: "month", model: ["gpt-5", "nobody-knows"], status: undefined });
    expect(series.map((one) => one.total_traces)).toEqual([2]);
  });

  test("throws what the server refuses, with the parameter's name", async () => {
    const refused = await asUser.timeSeries({ granularity: "fortnight" }).catch((error) => error);
    expect(refused).toBeInstanceOf(KluiszError);
    expect([refused.status, refused.errors[0].attr]).toEqual([400, "granularity"]);
    expect(refused.message).toContain("granularity: ");
    await expect(asUser.platformStats()).rejects.toMatchObject({ status: 403 });
    await expect(createClient({ baseUrl, token: "wrong" }).platformStats()).rejects.toMatchObject({ status: 401 });
    await expect(createClient({ baseUrl: "http://127.0.0.1:9" }).platformStats()).rejects.toMatchObject({ status: 0 });
  });
});

describe("the hooks", () => {
  function render(hook, client = asAdmin) {
    const queries = new QueryClient();
    const provided = ({ children }) =>
      createElement(QueryClientProvider, { client: queries }, createElement(hooks.KluiszProvider, { client }, children));
    return renderHook(hook, { wrapper: provided });
  }

  test.each([
    ["usePlatformStats", () => hooks.usePlatformStats(period), (data) => data.total_traces, 6],
    ["useTenantStats", () => hooks.useTenantStats(tenant, period), (data) => data.total_traces, 3],
    ["useUserStats", () => hooks.useUserStats(undefined, period), (data) => data.username, "root"],
    ["useTimeSeries", () => hooks.useTimeSeries({ ...period, granularity: "day" }), (data) => data.series.length, 30],
    ["useTopUsers", () => hooks.useTopUsers(period), (data) => data.results.length, 3],
    ["useTopFlows", () => hooks.useTopFlows(period), (data) => data.results.length, 2],
    ["useTopTenants", () => hooks.useTopTenants(period), (data) => data.results[0].name, "Globex"],
    ["useCostBreakdown", () => hooks.useCostBreakdown({ ...period, group_by: "model" }), (data) => data.results.length, 2],
    ["useAnomalies", () => hooks.useAnomalies(period), (data) => data.group_by, "flow"],
    ["useSources", () => hooks.useSources(period), (data) => data.results.length, 1],
    ["useUnknownNames", () => hooks.useUnknownNames(), (data) => data.results.length, 0],
    ["useCreditStatus", () => hooks.useCreditStatus(), (data) => data.username, "root"],
  ])("%s", async (_, hook, read, expected) => {
    const { result } = render(hook);
    expect(result.current.isPending).toBe(true);
    await waitFor(() => expect(result.current.isSuccess).toBe(true), { timeout: 10_000 });
    expect(read(result.current.data)).toBe(expected);
  });

  test("a refusal is not asked again", async () => {
    const { result } = render(() => hooks.usePlatformStats(), asUser);
    await waitFor(() => expect(result.current.isError).toBe(true), { timeout: 10_000 });
    expect([result.current.error.status, result.current.failureCount]).toEqual([403, 1]);
  });
});

describe("<credit-status>", () => {
  async function shown(token, attributes = {}, event = "loaded") {
    const made = document.createElement("credit-status");
    for (const [name, value] of Object.entries({ "base-url": baseUrl, ...attributes })) made.setAttribute(name, value);
    made.token = token;
    const answered = new Promise((resolve) => made.addEventListener(event, resolve, { once: true }));
    document.body.append(made);
    const before = made.shadowRoot.querySelector(".card");
    expect([before.dataset.state, before.getAttribute("aria-busy")]).toEqual(["loading", "true"]);
    await answered;
    return made;
  }
  const piece = (made, selector) => made.shadowRoot.querySelector(selector);

  test("shows what is left, and says it to who cannot see it", async () => {
    const made = await shown(user);
    expect(piece(made, ".card").dataset.state).toBe("ok");
    expect(piece(made, ".amount").textContent).toBe("9,988 of 10,000 credits");
    expect(piece(made, "[part=tier]").textContent).toBe("Professional");
    const bar = piece(made, "[role=meter]");
    expect([bar.getAttribute("aria-valuenow"), bar.getAttribute("aria-valuetext")]).toEqual(["100", "9,988 of 10,000 credits left"]);
  });

  test("says when credits are out", async () => {
    const made = await shown(poor);
    expect(piece(made, ".card").dataset.state).toBe("out");
    expect(piece(made, ".note").textContent).toContain("refused");
    expect(piece(made, "[role=meter]").getAttribute("aria-valuenow")).toBe("0");
  });

  test("says when they run low", async () => {
    const low = { ...(await asUser.creditStatus()), is_low_credits: true, is_out_of_credits: false, credits_remaining: "12.500000", projected_exhaustion_date: "2026-11-30" };
    const real = globalThis.fetch;
    globalThis.fetch = async () => new Response(JSON.stringify(low));
    try {
      const made = await shown(user, { compact: "" });
      expect(piece(made, ".card").dataset.state).toBe("low");
      expect(piece(made, ".amount").textContent).toContain("12.5");
      expect(piece(made, ".note").textContent).toBe("Running low. At this pace they last until November 30.");
    } finally {
      globalThis.fetch = real;
    }
  });

  test("a failure says why, and can be tried again with the keyboard", async () => {
    const made = await shown("wrong", {}, "failed");
    expect(piece(made, "[role=alert]").textContent).toContain("Credits are not known");
    const again = piece(made, "button");
    again.focus();
    expect(made.shadowRoot.activeElement).toBe(again);
    const answered = new Promise((resolve) => made.addEventListener("failed", resolve, { once: true }));
    again.click();
    await answered;
    const loaded = new Promise((resolve) => made.addEventListener("loaded", resolve, { once: true }));
    made.token = user;
    await loaded;
    expect(piece(made, ".card").dataset.state).toBe("ok");
  });
});
