-- Every user row of the batches, and every earlier row of the touched users, with its one outcome.
with in_scope as (
    select arrival_hour, source, file, row_number, user_id, created_at, attributes, raw
    from {{ ref('int_users_unioned') }}
    where reason is null
    union all by name
    select arrival_hour, source, file, row_number, user_id, created_at, attributes, raw
    from {{ source('lake', 'int_user_history') }}
    where
        outcome <> 'rejected'
        and user_id in (select user_id from {{ ref('int_touched_profiles') }})
        and arrival_hour not in (select arrival_hour from {{ ref('int_user_batches') }})
),

deliveries as (
    select
        *,
        row_number() over (
            partition by user_id order by arrival_hour desc, file desc, row_number desc
        ) = 1 as is_last
    from in_scope
)

select
    'users' as landed_table,
    * exclude (is_last),
    case when is_last then 'kept' else 'superseded' end as outcome,
    cast(null as varchar) as reason
from deliveries
union all by name
select
    'users' as landed_table,
    arrival_hour, source, file, row_number, user_id, created_at, attributes, raw,
    'rejected' as outcome,
    reason
from {{ ref('int_users_unioned') }}
where reason is not null
