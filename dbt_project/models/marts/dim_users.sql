{{ config(
    unique_key=['user_id'],
    meta={'rewrites': [{'model': 'int_touched_profiles', 'by': ['user_id']}]}
) }}
with events as (
    select user_id, event_ts from {{ ref('fct_interactions') }}
    union all
    select user_id, event_ts from {{ ref('fct_user_texts') }}
),

first_events as (
    select
        user_id,
        min(event_ts) as first_event_ts
    from events
    where user_id in (select user_id from {{ ref('int_touched_profiles') }})
    group by user_id
),

described as (
    select user_id, created_at, attributes
    from {{ ref('int_user_outcomes') }}
    where outcome = 'kept'
)

select
    user_id,
    described.user_id is not null as described,
    described.created_at,
    described.attributes,
    first_events.first_event_ts
from described
full outer join first_events using (user_id)
