/** What a caller's compiler knows of the client: this file has to compile, and each expected error has to be one. */

import { createClient } from "../../static/kluisz/client/client";
import { useCreditStatus, useTimeSeries, useTopUsers } from "../../static/kluisz/client/hooks";

const kluisz = createClient({ token: "t" });

export async function numbers(): Promise<void> {
  const stats = await kluisz.tenantStats("id", { start_date: "2026-11-01" });
  const traces: number = stats.total_traces;
  const cost: string | null = stats.total_cost_usd;
  const before: number = stats.previous_period.total_traces;
  // @ts-expect-error money is text, so that it stays exact
  const wrong: number = stats.total_cost_usd;
  // @ts-expect-error there is no such granularity
  await kluisz.timeSeries({ granularity: "fortnight" });
  await kluisz.timeSeries({ granularity: "week", model: ["gpt-4o", "gpt-5"] });
  console.log(traces, cost, before, wrong);
}

export function hooks(): string | undefined {
  const series = useTimeSeries({ granularity: "day" }, { staleTime: 1000 });
  const users = useTopUsers({ metric: "cost", limit: 5 });
  return series.data?.series[0].period_start ?? users.data?.results[0].username ?? useCreditStatus().data?.credits_remaining;
}
