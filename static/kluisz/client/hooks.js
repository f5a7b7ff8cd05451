/**
 * TanStack Query hooks for React: wrap the page in <KluiszProvider client={createClient(…)}> inside a QueryClientProvider.
 *
 *     const { data, error, isPending } = useTenantStats(tenantId, { start_date: "2026-11-01" });
 */

import { useQuery } from "@tanstack/react-query";
import { createContext, createElement, useContext } from "react";

const Kluisz = createContext(null);

export function KluiszProvider({ client, children }) {
  return createElement(Kluisz.Provider, { value: client }, children);
}

export function useKluisz() {
  const client = useContext(Kluisz);
  if (!client) throw new Error("There is no <KluiszProvider client={…}> around this component.");
  return client;
}

/** A refusal stays one: only what may pass by itself is tried again. */
function retry(failures, error) {
  return failures < 2 && (error.status === 0 || error.status === 429 || error.status >= 500);
}

function useKluiszQuery(name, args, options) {
  const client = useKluisz();
  return useQuery({ queryKey: ["kluisz", name, ...args], queryFn: ({ signal }) => client[name](...args, { signal }), retry, ...options });
}

export const usePlatformStats = (params = {}, options) => useKluiszQuery("platformStats", [params], options);
export const useTenantStats = (tenantId, params = {}, options) => useKluiszQuery("tenantStats", [tenantId, params], options);
export const useUserStats = (userId = "me", params = {}, options) => useKluiszQuery("userStats", [userId, params], options);
export const useTimeSeries = (params = {}, options) => useKluiszQuery("timeSeries", [params], options);
export const useTopUsers = (params = {}, options) => useKluiszQuery("topUsers", [params], options);
export const useTopFlows = (params = {}, options) => useKluiszQuery("topFlows", [params], options);
export const useTopTenants = (params = {}, options) => useKluiszQuery("topTenants", [params], options);
export const useCostBreakdown = (params = {}, options) => useKluiszQuery("costBreakdown", [params], options);
export const useAnomalies = (params = {}, options) => useKluiszQuery("anomalies", [params], options);
export const useSources = (params = {}, options) => useKluiszQuery("sources", [params], options);
export const useUnknownNames = (params = {}, options) => useKluiszQuery("unknownNames", [params], options);
export const useCreditStatus = (userId = undefined, options) => useKluiszQuery("creditStatus", [userId], options);
