{{ config(
    unique_key=['event_key'],
    partitioned_by=['bucket(16, user_id)'],
    meta={'rewrites': [{'model': 'int_touched_users', 'by': ['user_id']}]}
) }}
-- depends_on: {{ ref('int_touched_users') }}
select
    event_key,
    user_id,
    item_id,
    event_type,
    event_ts,
    value,
    weight,
    session_id,
    source,
    attributes,
    excluded_at,
    case when excluded_at is not null then reason end as excluded_reason
from {{ ref('int_event_outcomes') }}
where is_shown and item_id is not null
order by user_id, event_ts, event_key
