import type { UseQueryOptions, UseQueryResult } from "@tanstack/react-query";
import type { ReactElement, ReactNode } from "react";
import type {
  Anomalies,
  CostBreakdown,
  CreditStatus,
  KluiszClient,
  KluiszError,
  PlatformStats,
  Query,
  Sources,
  TenantStats,
  TimeSeries,
  TopFlows,
  TopTenants,
  TopUsers,
  UnknownNames,
  UserStats,
} from "./client";

type Options<Data> = Omit<UseQueryOptions<Data, KluiszError>, "queryKey" | "queryFn">;
type Result<Data> = UseQueryResult<Data, KluiszError>;

export declare function KluiszProvider(props: { client: KluiszClient; children?: ReactNode }): ReactElement;
export declare function useKluisz(): KluiszClient;
export declare function usePlatformStats(params?: Query<"platform_stats">, options?: Options<PlatformStats>): Result<PlatformStats>;
export declare function useTenantStats(tenantId: string, params?: Query<"tenant_stats">, options?: Options<TenantStats>): Result<TenantStats>;
export declare function useUserStats(userId?: string, params?: Query<"user_stats">, options?: Options<UserStats>): Result<UserStats>;
export declare function useTimeSeries(params?: Query<"time_series">, options?: Options<TimeSeries>): Result<TimeSeries>;
export declare function useTopUsers(params?: Query<"top_users">, options?: Options<TopUsers>): Result<TopUsers>;
export declare function useTopFlows(params?: Query<"top_flows">, options?: Options<TopFlows>): Result<TopFlows>;
export declare function useTopTenants(params?: Query<"top_tenants">, options?: Options<TopTenants>): Result<TopTenants>;
export declare function useCostBreakdown(params?: Query<"cost_breakdown">, options?: Options<CostBreakdown>): Result<CostBreakdown>;
export declare function useAnomalies(params?: Query<"anomalies">, options?: Options<Anomalies>): Result<Anomalies>;
export declare function useSources(params?: Query<"sources">, options?: Options<Sources>): Result<Sources>;
export declare function useUnknownNames(params?: Query<"unknown_names">, options?: Options<UnknownNames>): Result<UnknownNames>;
export declare function useCreditStatus(userId?: string, options?: Options<CreditStatus>): Result<CreditStatus>;
