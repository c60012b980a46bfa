/* Names of the search attributes that the workflows set; temporal.yaml registers them. All are keywords. */

export const SEARCH_ATTRIBUTES = {
  node: 'KybernateNode',
  container: 'KybernateContainer',
  checkpointId: 'KybernateCheckpointId',
  phase: 'KybernatePhase',
  gpu: 'KybernateGpu',
  outcome: 'KybernateOutcome',
} as const;
